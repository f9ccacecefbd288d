// CUPTI's records -> rows of a DeviceLog. Pure: calls nothing of CUPTI.
#pragma once

#include <cstdint>

#include "trace/device_log.h"

namespace torchprof::cupti {

// Records of other kinds, or of calls that are not watched, are passed over.
void add_record(const uint8_t* record, DeviceLog& log);

}  // namespace torchprof::cupti

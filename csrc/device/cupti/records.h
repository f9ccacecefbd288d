// CUPTI's records -> rows of a DeviceLog. Pure: calls no function of CUPTI.
#pragma once

#include <cstdint>

#include "trace/device_log.h"

namespace torchprof::cupti {

// Skips records of other kinds, and of calls that calls.h does not list.
void add_record(const uint8_t* record, DeviceLog& log);

}  // namespace torchprof::cupti

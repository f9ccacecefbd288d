#include "device/recorder.h"

#include "device/cupti/recorder.h"
#include "device/events/recorder.h"

namespace torchprof {

std::unique_ptr<DeviceRecorder> make_device_recorder(const std::string& name, int8_t device_type) {
  if (name == "cupti") {
    return std::make_unique<cupti::Recorder>();
  }
  if (name == "events") {
    return std::make_unique<events::Recorder>(static_cast<c10::DeviceType>(device_type));
  }
  return nullptr;
}

}  // namespace torchprof

// What tells blocks apart: memory of a device may have the address of memory of the host.
#pragma once

#include <cstdint>

namespace torchprof {

inline constexpr int8_t kCpuDevice = 0;  // c10::DeviceType::CPU

// No address uses its upper byte.
inline constexpr int kDeviceShift = 56;

inline uint64_t block_key(uint64_t address, int8_t device_type) {
  return address | static_cast<uint64_t>(static_cast<uint8_t>(device_type)) << kDeviceShift;
}
inline uint64_t address_of(uint64_t key) { return key & ((uint64_t{1} << kDeviceShift) - 1); }
inline int8_t device_type_of(uint64_t key) { return static_cast<int8_t>(key >> kDeviceShift); }

}  // namespace torchprof

#include "device/cupti/api.h"

#include <dlfcn.h>

#include <cstdlib>
#include <map>
#include <mutex>

#include "device/recorder.h"

namespace torchprof::cupti {
namespace {

template <typename Function>
bool find(void* library, const char* name, Function*& function) {
  function = reinterpret_cast<Function*>(dlsym(library, name));
  return function != nullptr;
}

Api read(void* library, const std::string& where) {
  Api api{};
  const bool complete =
      find(library, "cuptiGetVersion", api.GetVersion) && find(library, "cuptiGetResultString", api.GetResultString) &&
      find(library, "cuptiActivityEnable", api.ActivityEnable) && find(library, "cuptiActivityDisable", api.ActivityDisable) &&
      find(library, "cuptiActivityRegisterCallbacks", api.ActivityRegisterCallbacks) &&
      find(library, "cuptiActivityGetNextRecord", api.ActivityGetNextRecord) &&
      find(library, "cuptiActivityGetNumDroppedRecords", api.ActivityGetNumDroppedRecords) &&
      find(library, "cuptiActivityFlushAll", api.ActivityFlushAll);
  if (!complete) {
    throw DeviceRecorderError("CUPTI is not in " + where +
                              ": kernels of NVIDIA GPUs need a PyTorch that is built for CUDA; use gpu='events' or 'off'");
  }
  find(library, "cuptiGetThreadIdType", api.GetThreadIdType);
  find(library, "cuptiActivityEnableRuntimeApi", api.ActivityEnableRuntimeApi);
  find(library, "cuptiActivityEnableDriverApi", api.ActivityEnableDriverApi);
  return api;
}

// dlsym searches the libraries that libtorch_cpu.so was linked with, and so finds its copy of CUPTI, whatever its version and path.
Api read_pytorchs() {
  void* const torch = dlopen("libtorch_cpu.so", RTLD_NOW | RTLD_NOLOAD);
  if (torch == nullptr) {
    throw DeviceRecorderError(
        "CUPTI was not looked for: libtorch_cpu.so is not loaded under that name; use gpu='events' or 'off'");
  }
  const Api api = read(torch, "the libraries that PyTorch loaded");
  dlclose(torch);  // it stays loaded
  return api;
}

Api read_file(const std::string& path) {
  void* const library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    throw DeviceRecorderError("TORCHPROF_CUPTI=" + path + " cannot be loaded: " + dlerror());
  }
  return read(library, "TORCHPROF_CUPTI=" + path);
}

}  // namespace

const Api& load() {
  static std::mutex mutex;
  static auto* const loaded = new std::map<std::string, Api>;
  const char* const chosen = std::getenv("TORCHPROF_CUPTI");
  const std::string path = chosen != nullptr ? chosen : "";
  const std::lock_guard lock(mutex);
  const auto found = loaded->find(path);
  return found != loaded->end() ? found->second
                                : loaded->emplace(path, path.empty() ? read_pytorchs() : read_file(path)).first->second;
}

std::string text_of(const Api& api, Result result) {
  const char* text = nullptr;
  api.GetResultString(result, &text);
  return text != nullptr ? text : "error " + std::to_string(result);
}

}  // namespace torchprof::cupti

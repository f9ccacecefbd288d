#pragma once

#include <pybind11/pybind11.h>

#include "bindings/places.h"
#include "trace/address_set.h"

namespace torchprof::bindings {

// Of these places of modules, the numbers of those with parameters of their own of which none is in `storages_read`. None
// where no parameter at all is: it ran on stand-ins for them, or not at all.
pybind11::object unread_modules(const AddressSet& storages_read, const Places& places);

}  // namespace torchprof::bindings

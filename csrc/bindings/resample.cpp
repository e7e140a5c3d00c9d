#include "bindings/array.h"

namespace cnnfast::bindings {

void bind_resample(py::module_&) {}

}  // namespace cnnfast::bindings

#include "bindings/array.h"

namespace cnnfast::bindings {

void bind_pointwise(py::module_&) {}

}  // namespace cnnfast::bindings

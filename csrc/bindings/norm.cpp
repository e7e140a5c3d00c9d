#include "bindings/array.h"

namespace cnnfast::bindings {

void bind_norm(py::module_&) {}

}  // namespace cnnfast::bindings

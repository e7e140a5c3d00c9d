#include "bindings/array.h"

namespace cnnfast::bindings {

void bind_pool(py::module_&) {}

}  // namespace cnnfast::bindings

#include "bindings/array.h"

namespace cnnfast::bindings {

void bind_roi(py::module_&) {}

}  // namespace cnnfast::bindings

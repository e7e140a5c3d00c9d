#include "bindings/array.h"

namespace cnnfast::bindings {

void bind_boxes(py::module_&) {}

}  // namespace cnnfast::bindings

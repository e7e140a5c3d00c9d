// Arrays across the border: borrow inputs, hand out recycled outputs, run without the GIL.
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <vector>

#include "core/arena.h"

namespace cnnfast::bindings {

namespace py = pybind11;

// The Python side guarantees type, order and shape; pybind11 refuses anything else instead of copying.
using Floats = py::array_t<float, py::array::c_style>;

inline const float* data_or_null(const std::optional<Floats>& array) {
  return array ? array->data() : nullptr;
}

// An uninitialised C-contiguous array on recycled memory, which goes back when NumPy drops the array.
template <class T = float>
py::array_t<T> new_array(const std::vector<py::ssize_t>& shape) {
  size_t bytes = sizeof(T);
  for (py::ssize_t d : shape)
    if (__builtin_mul_overflow(bytes, static_cast<size_t>(d), &bytes)) throw std::bad_alloc();
  struct Owned {
    void* data;
    size_t bytes;
  };
  if (bytes < 4096) return py::array_t<T>(shape);  // NumPy's own small-block cache is quicker
  auto* owned = new Owned{nullptr, bytes};
  try {
    owned->data = acquire_buffer(bytes);
  } catch (...) {
    delete owned;
    throw;
  }
  py::capsule base(owned, [](void* p) {
    auto* o = static_cast<Owned*>(p);
    release_buffer(o->data, o->bytes);
    delete o;
  });
  return py::array_t<T>(shape, static_cast<T*>(owned->data), base);
}

template <class F>
void without_gil(F&& body) {
  py::gil_scoped_release release;
  body();
}

// One function per family; module.cpp calls them all.
void bind_conv(py::module_& m);
void bind_pool(py::module_& m);
void bind_pointwise(py::module_& m);
void bind_norm(py::module_& m);
void bind_resample(py::module_& m);
void bind_boxes(py::module_& m);
void bind_roi(py::module_& m);

}  // namespace cnnfast::bindings

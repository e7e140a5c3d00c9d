// Arrays across the border: borrow inputs, hand out recycled outputs, run without the GIL.
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "core/arena.h"

namespace cnnfast::bindings {

namespace py = pybind11;

// The Python side guarantees type, order and shape; pybind11 refuses anything else instead of copying.
using Floats = py::array_t<float, py::array::c_style>;

inline const float* data_or_null(const std::optional<Floats>& array) {
  return array ? array->data() : nullptr;
}

// What operators take without a look: an ndarray itself (no subclass) of native float32, C-contiguous and
// aligned.
inline bool is_plain(PyObject* value) {
  const auto& api = py::detail::npy_api::get();
  if (Py_TYPE(value) != api.PyArray_Type_) return false;
  static PyObject* const float32 = py::dtype::of<float>().release().ptr();  // one for the process
  constexpr int kWanted =
      py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_ | py::detail::npy_api::NPY_ARRAY_ALIGNED_;
  const auto* array = py::detail::array_proxy(value);
  return array->descr == float32 && (array->flags & kWanted) == kWanted;
}

// An uninitialised C-contiguous array on recycled memory, which goes back when NumPy drops the array.
// Every call makes one, so it goes to NumPy's C interface directly.
template <class T = float>
py::array_t<T> new_array(const py::ssize_t* shape, size_t rank) {
  size_t bytes = sizeof(T);
  for (size_t i = 0; i < rank; ++i)
    if (__builtin_mul_overflow(bytes, static_cast<size_t>(shape[i]), &bytes)) throw std::bad_alloc();
  struct Owned {
    void* data;
    size_t bytes;
  };
  const auto& api = py::detail::npy_api::get();
  const auto make = [&](void* data) {
    PyObject* array = api.PyArray_NewFromDescr_(
        api.PyArray_Type_, py::dtype::of<T>().release().ptr(), static_cast<int>(rank),
        reinterpret_cast<const Py_intptr_t*>(shape), nullptr, data,
        data ? py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_ | py::detail::npy_api::NPY_ARRAY_ALIGNED_ |
                   py::detail::npy_api::NPY_ARRAY_WRITEABLE_
             : 0,
        nullptr);
    if (!array) throw py::error_already_set();
    return py::reinterpret_steal<py::array_t<T>>(array);
  };
  if (bytes < 4096) return make(nullptr);  // NumPy's own small-block cache is quicker
  auto* owned = new Owned{nullptr, bytes};
  const auto give_back = [](PyObject* capsule) {
    auto* o = static_cast<Owned*>(PyCapsule_GetPointer(capsule, nullptr));
    if (o->data) release_buffer(o->data, o->bytes);
    delete o;
  };
  PyObject* capsule = PyCapsule_New(owned, nullptr, give_back);
  if (!capsule) {
    delete owned;
    throw py::error_already_set();
  }
  const auto base = py::reinterpret_steal<py::object>(capsule);
  owned->data = acquire_buffer(bytes);
  auto y = make(owned->data);
  if (api.PyArray_SetBaseObject_(y.ptr(), py::object(base).release().ptr()) != 0)
    throw py::error_already_set();
  return y;
}

template <class T = float>
py::array_t<T> new_array(const std::vector<py::ssize_t>& shape) {
  return new_array<T>(shape.data(), shape.size());
}

template <class T = float>
py::array_t<T> new_array(std::initializer_list<py::ssize_t> shape) {
  return new_array<T>(shape.begin(), shape.size());
}

// Of the shape of another.
inline py::array_t<float> like(const Floats& x) {
  return new_array(x.shape(), static_cast<size_t>(x.ndim()));
}

// Packed weights on the way to a file and back: floats, and whether they are known to be finite.
using WeightParts = std::vector<std::pair<Floats, bool>>;

// A view of memory that a Python object owns.
inline Floats view_of(const float* data, int64_t count, const py::object& owner) {
  return Floats({static_cast<py::ssize_t>(count)}, data, owner);
}

// Keeps a Python object alive from C++.
inline std::shared_ptr<const void> kept(py::object object) {
  return std::shared_ptr<const void>(new py::object(std::move(object)), [](const py::object* o) {
    py::gil_scoped_acquire gil;
    delete o;
  });
}

inline void expect_parts(const WeightParts& parts, size_t count) {
  if (parts.size() != count) throw std::invalid_argument("stored weights: wrong number of parts");
}
inline const float* expect_floats(const Floats& part, int64_t count) {
  if (part.size() != count) throw std::invalid_argument("stored weights: wrong number of values");
  return part.data();
}

template <class F>
void without_gil(F&& body) {
  py::gil_scoped_release release;
  body();
}

// Keeps the GIL where so few elements are done before it could be given away and taken again.
template <class F>
void without_gil_if_long(int64_t elements, F&& body) {
  if (elements < 2048)
    body();
  else
    without_gil(body);
}

// One function per family; module.cpp calls them all.
void bind_conv(py::module_& m);
void bind_pool(py::module_& m);
void bind_pointwise(py::module_& m);
void bind_norm(py::module_& m);
void bind_reduce(py::module_& m);
void bind_resample(py::module_& m);
void bind_boxes(py::module_& m);
void bind_roi(py::module_& m);
void bind_winograd(py::module_& m);
void bind_grad(py::module_& m);
void bind_optim(py::module_& m);
void bind_plan(py::module_& m);

}  // namespace cnnfast::bindings

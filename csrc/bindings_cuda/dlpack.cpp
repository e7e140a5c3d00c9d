// DLPack (https://dmlc.github.io/dlpack, versions 0.8 and 1.0): arrays to and from other libraries without a
// copy. Only C-contiguous arrays cross, as the module has no others.
#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <vector>

#include "bindings_cuda/buffer.h"

namespace cnnfast::cuda::bindings {
namespace {

// The structures as the standard lays them out.
struct DlDevice {
  int32_t type, id;
};
struct DlType {
  uint8_t code, bits;
  uint16_t lanes;
};
struct DlTensor {
  void* data;
  DlDevice device;
  int32_t ndim;
  DlType type;
  int64_t *shape, *strides;
  uint64_t byte_offset;
};
struct DlManaged {
  DlTensor tensor;
  void* context;
  void (*deleter)(DlManaged*);
};
struct DlVersioned {
  uint32_t major, minor;
  void* context;
  void (*deleter)(DlVersioned*);
  uint64_t flags;
  DlTensor tensor;
};

// Device memory; the stand-in's memory is the host's.
#if defined(CNNFAST_SHIM)
constexpr int kDevice = 1;
#else
constexpr int kDevice = 2;
#endif

struct NamedType {
  DType type;
  DlType dl;
};
constexpr NamedType kTypes[] = {
    {DType::kFloat32, {2, 32, 1}}, {DType::kBFloat16, {4, 16, 1}}, {DType::kFloat16, {2, 16, 1}},
    {DType::kInt64, {0, 64, 1}},   {DType::kInt32, {0, 32, 1}},    {DType::kUInt8, {1, 8, 1}},
    {DType::kBool, {6, 8, 1}},
};

// What an exported tensor holds, in either form.
template <class Managed>
struct Exported {
  Managed managed{};
  std::vector<int64_t> shape, strides;
  Buffer buffer;
  StreamPointer reader;  // of the other library

  explicit Exported(Buffer b) : buffer(std::move(b)) {}
};

template <class Managed>
void drop(Managed* managed) {
  auto* held = static_cast<Exported<Managed>*>(managed->context);
  if (held->reader) {
    // What the reader still does to the memory comes before whatever it is used for next.
    try {
      held->buffer.wait_for(*held->reader);
    } catch (const CudaError&) {  // the driver or that stream is gone
    }
  }
  delete held;
}

template <class Managed>
constexpr const char* kNameOf = nullptr;
template <>
constexpr const char* kNameOf<DlManaged> = "dltensor";
template <>
constexpr const char* kNameOf<DlVersioned> = "dltensor_versioned";

template <class Managed>
py::capsule export_as(const Buffer& buffer, int type, const std::vector<int64_t>& shape,
                      StreamPointer reader) {
  auto owned = std::make_unique<Exported<Managed>>(buffer);
  auto* held = owned.get();
  held->shape = shape;
  held->strides.resize(shape.size());
  int64_t step = 1;
  for (size_t i = shape.size(); i-- > 0;) {
    held->strides[i] = step;
    step *= shape[i];
  }
  DlTensor& t = held->managed.tensor;
  t.data = buffer.data();
  if (reader) reader->wait_for(*current_stream());  // which has waited for whoever wrote the memory
  held->reader = std::move(reader);
  t.device = {kDevice, device_number()};
  t.ndim = static_cast<int32_t>(shape.size());
  for (const NamedType& known : kTypes)
    if (known.type == static_cast<DType>(type)) t.type = known.dl;
  t.shape = held->shape.data();
  t.strides = held->strides.data();
  held->managed.context = held;
  held->managed.deleter = drop<Managed>;
  PyObject* capsule = PyCapsule_New(&held->managed, kNameOf<Managed>, [](PyObject* o) {
    if (!PyCapsule_IsValid(o, kNameOf<Managed>)) return;  // somebody took it
    auto* managed = static_cast<Managed*>(PyCapsule_GetPointer(o, kNameOf<Managed>));
    managed->deleter(managed);
  });
  if (!capsule) throw py::error_already_set();
  owned.release();
  return py::reinterpret_steal<py::capsule>(capsule);
}

template <class Managed>
py::tuple import_as(const py::object& capsule, const char* used) {
  auto* managed = static_cast<Managed*>(PyCapsule_GetPointer(capsule.ptr(), kNameOf<Managed>));
  if (!managed) throw py::error_already_set();
  const DlTensor& t = managed->tensor;
  if (t.device.type != kDevice || t.device.id != device_number())
    throw std::invalid_argument("from_dlpack: expected an array on CUDA device " +
                                std::to_string(device_number()) + ", got device type " +
                                std::to_string(t.device.type) + ", number " + std::to_string(t.device.id));
  const NamedType* type = nullptr;
  for (const NamedType& known : kTypes)
    if (known.dl.code == t.type.code && known.dl.bits == t.type.bits && t.type.lanes == 1) type = &known;
  if (!type)
    throw py::type_error("from_dlpack: no element type here has code " + std::to_string(t.type.code) +
                         " and " + std::to_string(t.type.bits) + " bits");
  py::tuple shape(t.ndim);
  int64_t count = 1;
  for (int i = t.ndim - 1; i >= 0; --i) {
    if (t.strides && t.shape[i] > 1 && t.strides[i] != count)
      throw std::invalid_argument("from_dlpack: expected a C-contiguous array");
    count *= t.shape[i];
    shape[static_cast<size_t>(i)] = t.shape[i];
  }
  PyCapsule_SetName(capsule.ptr(), used);
  const py::capsule owner(managed, [](void* p) {
    auto* m = static_cast<Managed*>(p);
    if (m->deleter) m->deleter(m);
  });
  const auto address = reinterpret_cast<uintptr_t>(t.data) + t.byte_offset;
  const Buffer buffer(address, static_cast<size_t>(count * size_of(type->type)), owner);
  return py::make_tuple(buffer, shape, static_cast<int>(type->type));
}

}  // namespace

void bind_dlpack(py::module_& m) {
  m.def("dlpack_device", [] { return py::make_tuple(kDevice, device_number()); });
  m.def(
      "to_dlpack",
      [](const Buffer& buffer, int type, const std::vector<int64_t>& shape, bool versioned,
         StreamPointer reader) -> py::capsule {
        int64_t count = 1;
        for (const int64_t d : shape) count *= d;
        expect_bytes(buffer, count, static_cast<DType>(type), "to_dlpack");
        if (!versioned) return export_as<DlManaged>(buffer, type, shape, std::move(reader));
        auto capsule = export_as<DlVersioned>(buffer, type, shape, std::move(reader));
        static_cast<DlVersioned*>(PyCapsule_GetPointer(capsule.ptr(), kNameOf<DlVersioned>))->major = 1;
        return capsule;
      },
      py::arg("buffer"), py::arg("type"), py::arg("shape"), py::arg("versioned"),
      py::arg("reader").none(true));
  m.def("from_dlpack", [](const py::object& capsule) {
    if (PyCapsule_IsValid(capsule.ptr(), kNameOf<DlVersioned>))
      return import_as<DlVersioned>(capsule, "used_dltensor_versioned");
    return import_as<DlManaged>(capsule, "used_dltensor");
  });
}

}  // namespace cnnfast::cuda::bindings

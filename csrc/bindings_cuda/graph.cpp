// Captured work: what was put into this thread's stream between begin and end, started again as one; and
// points in it to take the time from.
#include "bindings_cuda/buffer.h"

namespace cnnfast::cuda::bindings {
namespace {

class Graph {
 public:
  ~Graph() {
    if (!exec_) return;
    // What its launches read may be given back next, and knows nothing of their stream.
    cudaStreamSynchronize(stream_->handle());
    cudaGraphExecDestroy(exec_);
  }
  void begin() {
    stream_ = current_stream();
    CNNFAST_CUDA_CHECK(cudaStreamBeginCapture(stream_->handle(), cudaStreamCaptureModeRelaxed));
  }
  void end() {
    cudaGraph_t graph = nullptr;
    CNNFAST_CUDA_CHECK(cudaStreamEndCapture(stream_->handle(), &graph));
    const cudaError_t error = cudaGraphInstantiate(&exec_, graph, 0);
    cudaGraphDestroy(graph);
    CNNFAST_CUDA_CHECK(error);
  }
  // After an error on the way.
  void cancel() {
    cudaGraph_t graph = nullptr;
    if (cudaStreamEndCapture(stream_->handle(), &graph) == cudaSuccess && graph) cudaGraphDestroy(graph);
    cudaGetLastError();
  }
  void launch() {
    if (!exec_) throw std::logic_error("launch: nothing is captured");
    const StreamPointer& now = current_stream();
    if (stream_ != now) {
      now->wait_for(*stream_);
      stream_ = now;
    }
    CNNFAST_CUDA_CHECK(cudaGraphLaunch(exec_, now->handle()));
  }

 private:
  StreamPointer stream_;  // that used the memory of the graph last
  cudaGraphExec_t exec_ = nullptr;
};

// A point in this thread's stream, to take the time from.
class Event {
 public:
  Event() { CNNFAST_CUDA_CHECK(cudaEventCreateWithFlags(&event_, 0)); }
  ~Event() { cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  void record() { CNNFAST_CUDA_CHECK(cudaEventRecord(event_, stream())); }
  // Seconds; waits for this one.
  double since(const Event& earlier) const {
    float milliseconds = 0;
    CNNFAST_CUDA_CHECK(cudaEventSynchronize(event_));
    CNNFAST_CUDA_CHECK(cudaEventElapsedTime(&milliseconds, earlier.event_, event_));
    return 1e-3 * milliseconds;
  }

 private:
  cudaEvent_t event_ = nullptr;
};

}  // namespace

void bind_graph(py::module_& m) {
  py::class_<Event>(m, "Event", py::module_local())
      .def(py::init<>())
      .def("record", &Event::record)
      .def("since", &Event::since, py::call_guard<py::gil_scoped_release>());
  py::class_<Graph>(m, "Graph", py::module_local())
      .def(py::init<>())
      .def("begin", &Graph::begin)
      .def("end", &Graph::end)
      .def("cancel", &Graph::cancel)
      .def("launch", &Graph::launch);
}

}  // namespace cnnfast::cuda::bindings

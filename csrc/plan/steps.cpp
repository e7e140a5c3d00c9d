#include "plan/steps.h"

#include "cpu/copy.h"
#include "cpu/pixel_lanes.h"

namespace cnnfast {
namespace {

Epilogue epilogue_of(const Memory& m, const Finish& f) {
  return {m[f.bias], m[f.residual], f.activation, f.slope};
}

}  // namespace

void add_conv2d(Plan& plan, const Conv2dSpec& s, std::shared_ptr<const ConvWeights> weights, const Place& x,
                const Finish& finish, const Place& y) {
  plan.add(weights->algorithm(s),
           [=](const Memory& m) { weights->run(s, m[x], epilogue_of(m, finish), m[y]); });
}

void add_depthwise_block(Plan& plan, const BlockStage& expand, const BlockStage& filter,
                         const BlockStage& project, const Place& x, const Place& y) {
  plan.add("bands of rows", [=](const Memory& m) {
    const auto conv = [&m](const BlockStage& stage) {
      return BlockConv{stage.spec, stage.weights ? stage.weights->matrix() : nullptr,
                       epilogue_of(m, stage.finish), stage.ld};
    };
    depthwise_block(filter.spec, m[x], conv(expand), filter.weights->data(), filter.weights->finite(),
                    epilogue_of(m, filter.finish), conv(project), m[y]);
  });
}

void add_gated_conv2d(Plan& plan, const Conv2dSpec& s, std::shared_ptr<const ConvWeights> weights,
                      const Place& x, const Place& gates, const Finish& finish, const Place& y) {
  plan.add("pointwise GEMM, gated weights", [=](const Memory& m) {
    gated_conv2d(s, m[x], m[gates], *weights->matrix(), epilogue_of(m, finish), m[y]);
  });
}

void add_pooled_conv2d(Plan& plan, const Conv2dSpec& s, const PoolSpec& pool,
                       std::shared_ptr<const ConvWeights> weights, const Place& x, const Finish& finish,
                       const Place& y) {
  plan.add("pixels across lanes, pooled", [=](const Memory& m) {
    conv2d_by_pixels(s, &pool, m[x], weights->data(), epilogue_of(m, finish), m[y]);
  });
}

void add_conv2d_plain(Plan& plan, const Conv2dSpec& s, const Place& w, const Place& x, const Finish& finish,
                      const Place& y) {
  plan.add(conv2d_algorithm(s),
           [=](const Memory& m) { conv2d(s, m[x], m[w], nullptr, epilogue_of(m, finish), m[y]); });
}

void add_conv2d_transpose(Plan& plan, const ConvTransposeSpec& s, const Place& plain,
                          std::shared_ptr<const PackedTranspose> weights, const Place& x,
                          const Finish& finish, const Place& y) {
  plan.add("indirect GEMM per phase", [=](const Memory& m) {
    conv2d_transpose(s, m[x], m[plain], *weights, epilogue_of(m, finish), m[y]);
  });
}

void add_linear(Plan& plan, const LinearSpec& s, const Place& w, std::shared_ptr<const PackedMatrix> weights,
                const Place& x, const Finish& finish, const Place& y) {
  plan.add("GEMM", [=](const Memory& m) {
    linear(s.rows, s.in, s.out, m[x], m[w], weights.get(), epilogue_of(m, finish), m[y]);
  });
}

void add_matmul(Plan& plan, const MatmulSpec& s, const Place& a, const Place& b, const Place& y) {
  plan.add("GEMM", [=](const Memory& m) { matmul(s, m[a], m[b], m[y]); });
}

void add_gram_matrix(Plan& plan, int64_t n, int64_t rows, int64_t c, const Place& x, const Place& y) {
  plan.add("half a GEMM", [=](const Memory& m) { gram_matrix(n, rows, c, m[x], m[y]); });
}

void add_pool2d(Plan& plan, const PoolSpec& s, bool average, const Place& x, const Place& y) {
  plan.add("rows", [=](const Memory& m) {
    if (average)
      avg_pool2d(s, m[x], m[y]);
    else
      max_pool2d(s, m[x], m[y], nullptr);
  });
}

void add_l2_pool2d(Plan& plan, const PoolSpec& s, int64_t size, const Place& x, const Place& y) {
  plan.add("root of averages", [=](const Memory& m) { l2_pool2d(s, size, m[x], m[y]); });
}

void add_global_pool2d(Plan& plan, const GlobalPoolSpec& s, bool average, const Place& x, const Place& y) {
  const auto pool = average ? global_avg_pool : global_max_pool;
  plan.add("pictures", [=](const Memory& m) { pool(s.n, s.pixels, s.c, s.ldx, m[x], m[y]); });
}

void add_activation(Plan& plan, int64_t count, int kind, float slope, const Place& x, const Place& y) {
  plan.add("elements", [=](const Memory& m) { activate(kind, slope, m[x], m[y], count); });
}

void add_unary(Plan& plan, Unary function, float p, float q, int64_t count, const Place& x, const Place& y) {
  plan.add("elements", [=](const Memory& m) { unary(function, p, q, m[x], m[y], count); });
}

void add_binary(Plan& plan, Binary op, const Broadcast& s, bool alike, const Place& a, const Place& b,
                int activation, float slope, const Place& y) {
  if (alike)
    plan.add("elements",
             [=, n = s.count](const Memory& m) { binary_alike(op, n, m[a], m[b], activation, slope, m[y]); });
  else
    plan.add("broadcast", [=](const Memory& m) { binary(op, s, m[a], m[b], activation, slope, m[y]); });
}

void add_batch_norm(Plan& plan, const BatchNormSpec& s, const Place& x, const Place& mean, const Place& var,
                    const Place& scale, const Place& shift, const Place& y) {
  plan.add("elements", [=](const Memory& m) {
    batch_norm(s.rows, s.c, m[x], m[mean], m[var], m[scale], m[shift], s.eps, m[y]);
  });
}

void add_local_response_norm(Plan& plan, const LocalResponse& s, const Place& x, const Place& y) {
  plan.add("rows", [=](const Memory& m) { local_response_norm(s, m[x], m[y]); });
}

void add_reduce(Plan& plan, Reduce kind, const ReduceAxes& s, const Place& x, const Place& y) {
  plan.add(s.gather       ? "gathered rows"
           : s.inner == 1 ? "rows"
                          : "columns",
           [=](const Memory& m) { reduce(kind, s, m[x], m[y]); });
}

void add_l2_normalize(Plan& plan, const L2NormalizeSpec& s, const Place& x, const Place& y) {
  plan.add(s.inner == 1 ? "rows" : "columns",
           [=](const Memory& m) { l2_normalize(s.outer, s.k, s.inner, s.eps, m[x], m[y]); });
}

void add_instance_norm(Plan& plan, const InstanceNormSpec& s, const Place& x, const Place& scale,
                       const Place& shift, const Place& y) {
  plan.add("columns", [=](const Memory& m) {
    instance_norm(s.n, s.pixels, s.c, m[x], m[scale], m[shift], s.eps, m[y]);
  });
}

void add_softmax(Plan& plan, const SoftmaxSpec& s, const Place& x, const Place& y) {
  plan.add(s.inner == 1 ? "rows" : "columns",
           [=](const Memory& m) { softmax(s.outer, s.k, s.inner, s.log, m[x], m[y]); });
}

void add_pad2d(Plan& plan, const Pad2dSpec& s, const Place& x, const Place& y) {
  plan.add("copy", [=](const Memory& m) { pad2d(s, m[x], m[y]); });
}

void add_resize(Plan& plan, ResizeSpec spec, const Place& x, const Place& y) {
  plan.add(spec.columns_first ? "columns first" : "rows first", [s = std::move(spec), x, y](const Memory& m) {
    resize(s.n, s.c, s.vertical, s.horizontal, s.columns_first, m[x], m[y]);
  });
}

void add_concat(Plan& plan, int64_t rows, const std::vector<Place>& parts,
                const std::vector<int64_t>& columns, const Place& y) {
  plan.add("copy", [=](const Memory& m) {
    std::vector<ConcatPart> pieces;
    for (size_t i = 0; i < parts.size(); ++i) pieces.push_back({m[parts[i]], columns[i]});
    concat(pieces, rows, m[y]);
  });
}

void add_copy(Plan& plan, const std::vector<int64_t>& sizes, const std::vector<int64_t>& x_steps,
              const std::vector<int64_t>& y_steps, const Place& x, const Place& y) {
  plan.add("copy",
           [copy = StridedCopy(sizes, x_steps, y_steps), x, y](const Memory& m) { copy.run(m[x], m[y]); });
}

void add_roi_pool(Plan& plan, const RoiSpec& s, const Place& x, const Place& boxes, const Place& y) {
  plan.add("regions", [=](const Memory& m) { roi_pool(s, m[x], m[boxes], m[y]); });
}

void add_roi_align(Plan& plan, const RoiSpec& s, int64_t samples, bool aligned, const Place& x,
                   const Place& boxes, const Place& y) {
  plan.add("regions", [=](const Memory& m) { roi_align(s, m[x], m[boxes], samples, aligned, m[y]); });
}

}  // namespace cnnfast

// A causal convolution of each channel over time, forward and backward. Time runs in order, in chunks of steps that
// follow each other; threads share rows and blocks of channels. The sum over the kernel runs from its oldest weight to
// its newest in every chunk, so a sequence in parts has the same bits as in one.
#pragma once

#include "../math/math.h"
#include "attention_contract.h"
#include "parallel.h"
#include "steps.h"

namespace fusedrnn::FUSEDRNN_ISA {

inline constexpr Index kRow = kConvolutionBlock;  // numbers from row to row of the work

// A block of channels of the arrays in a thread's work.
template <class T>
struct ConvolutionBlock {
  Index from, count, padded;
  T *bias, *weights, *inputs, *gradients, *earlier;

  ConvolutionBlock(const Convolution<T>& c, Index block, T* work) {
    from = block * kRow, count = c.D - from < kRow ? c.D - from : kRow;
    padded = rounded_up(count, kLanes<T>);
    bias = work, weights = bias + kRow, inputs = weights + c.k * kRow;
    gradients = inputs + (c.k - 1 + kConvolutionSteps) * kRow;
    earlier = gradients + kConvolutionSteps * kRow;
    for (Index row = 0; row < convolution_rows(c.k); ++row)
      for (Index i = count; i < padded; ++i) work[row * kRow + i] = T(0);
    for (Index i = 0; i < count; ++i) {
      bias[i] = c.bias ? c.bias[from + i] : T(0);
      for (Index j = 0; j < c.k; ++j) weights[j * kRow + i] = c.weight[(from + i) * c.k + j];
    }
  }
};

// p of STEPS steps, for one vector of channels.
template <class T, int STEPS>
[[gnu::always_inline]] inline void convolve(Index k, const T* bias, const T* weights, const T* inputs, Vec<T>* p) {
#pragma GCC unroll 4
  for (int i = 0; i < STEPS; ++i) p[i] = load(bias);
  for (Index j = 0; j < k; ++j) {
    const Vec<T> w = load(weights + j * kRow);
#pragma GCC unroll 4
    for (int i = 0; i < STEPS; ++i) p[i] = w * load(inputs + (i + j) * kRow) + p[i];
  }
}

template <class T, int STEPS>
void convolution_steps(const Convolution<T>& c, const ConvolutionBlock<T>& b, const T* inputs, T* y) {
  for (Index l = 0; l < b.padded; l += kLanes<T>) {
    Vec<T> p[STEPS];
    convolve<T, STEPS>(c.k, b.bias + l, b.weights + l, inputs + l, p);
#pragma GCC unroll 4
    for (int i = 0; i < STEPS; ++i)
      store_partial(y + i * c.y.time + l, c.silu ? p[i] * sigmoid(p[i]) : p[i], b.count - l);
  }
}

template <class T>
void convolution_forward(const Convolution<T>& c, Member& m) {
  const FloatingPointState floating_point;
  const Range mine = part_of(convolution_blocks(c.D) * c.B, m.rank, m.team->size);
  for (Index position = mine.begin; position < mine.end;) {
    ConvolutionBlock<T> b(c, position / c.B, c.work + m.rank * convolution_rows(c.k) * kRow);
    const Index block = position / c.B;
    for (; position < mine.end && position / c.B == block; ++position) {
      const Index row = position % c.B;
      for (Index j = 0; j < c.k - 1; ++j)
        copy_row(c.state ? c.state + (row * (c.k - 1) + j) * c.D + b.from : nullptr, b.inputs + j * kRow, b.count);
      const RowSteps steps{c.flags, c.B, row, 0};
      for (Index t = 0; t < c.T_;) {
        if (steps.cut(t))
          for (Index j = 0; j < c.k - 1; ++j) copy_row<T>(nullptr, b.inputs + j * kRow, b.count);
        if (!steps.runs(t)) {
          copy_row<T>(nullptr, c.y.of(t++, row) + b.from, b.count);
          continue;
        }
        const Index end = steps.end(t, c.T_, kConvolutionSteps), n = end - t;
        for (Index i = 0; i < n; ++i) copy_row(c.x.of(t + i, row) + b.from, b.inputs + (c.k - 1 + i) * kRow, b.count);
        T* const y = c.y.of(t, row) + b.from;
        Index i = 0;
        for (; i + 4 <= n; i += 4) convolution_steps<T, 4>(c, b, b.inputs + i * kRow, y + i * c.y.time);
        for (; i < n; ++i) convolution_steps<T, 1>(c, b, b.inputs + i * kRow, y + i * c.y.time);
        for (Index j = 0; j < c.k - 1; ++j) copy_row(b.inputs + (n + j) * kRow, b.inputs + j * kRow, b.count);
        t = end;
        did(m, static_cast<double>(2 * n * c.k * b.padded));
        if (stopped(m)) return;
      }
      for (Index j = 0; j < c.k - 1; ++j)
        copy_row(b.inputs + j * kRow, c.state_n + (row * (c.k - 1) + j) * c.D + b.from, b.count);
    }
  }
}

// The k - 1 inputs before step t, as the row saw them, into the first rows of the inputs.
template <class T>
void earlier_inputs(const Convolution<T>& c, const ConvolutionBlock<T>& b, const RowSteps& steps, Index t) {
  Index j = c.k - 2, at = t;
  bool cut = false;
  while (j >= 0) {
    cut = cut || steps.cut(at);
    if (cut || at == 0) break;
    if (steps.runs(--at)) copy_row(c.x.of(at, steps.row) + b.from, b.inputs + j-- * kRow, b.count);
  }
  const Index known = c.k - 2 - j;  // inputs of steps; the state's newest ones come before them
  for (; j >= 0; --j) {
    const bool of_state = !cut && c.state;
    const T* const state = c.state + (steps.row * (c.k - 1) + j + known) * c.D + b.from;
    copy_row(of_state ? state : nullptr, b.inputs + j * kRow, b.count);
  }
}

// The gradients of one chunk of n steps from t, for one vector of channels.
template <class T>
void convolution_chunk_backward(const Convolution<T>& c, const ConvolutionBlock<T>& b, Index t, Index row, Index n,
                                Index l, double* sums) {
  const Index rest = b.count - l;
  Vec<T> of_bias = {};
  for (Index i = 0; i < n; ++i) {
    Vec<T> dp = load_partial(c.dy.of(t + i, row) + b.from + l, rest);
    if (c.silu) {
      Vec<T> p[1];
      convolve<T, 1>(c.k, b.bias + l, b.weights + l, b.inputs + i * kRow + l, p);
      const Vec<T> s = sigmoid(p[0]);
      dp *= s * (p[0] * (T(1) - s) + T(1));
    }
    store(b.gradients + i * kRow + l, dp);
    of_bias += dp;
  }
  const auto add = [&](Index j, Vec<T> v) {
    for (Index i = 0; i < kLanes<T> && i < rest; ++i) sums[j * c.D + i] += static_cast<double>(v[i]);
  };
  for (Index j = 0; j < c.k; ++j) {
    Vec<T> sum = {};
    for (Index i = 0; i < n; ++i) sum = load(b.gradients + i * kRow + l) * load(b.inputs + (i + j) * kRow + l) + sum;
    add(j, sum);
  }
  add(c.k, of_bias);
  // Input r of the chunk's window met weight j at step r - j; later steps' gradients of it are in `earlier`.
  for (Index r = n + c.k - 2; r >= 0; --r) {
    Vec<T> g = {};
    if (r >= n) g = load(b.earlier + (r - n) * kRow + l);
    for (Index j = r - n + 1 > 0 ? r - n + 1 : 0; j < c.k && j <= r; ++j)
      g = load(b.weights + j * kRow + l) * load(b.gradients + (r - j) * kRow + l) + g;
    if (r >= c.k - 1) store_partial(c.dx.of(t + r - (c.k - 1), row) + b.from + l, g, rest);
    else store(b.earlier + r * kRow + l, g);
  }
}

template <class T>
void convolution_backward(const Convolution<T>& c, Member& m) {
  const FloatingPointState floating_point;
  const Index blocks = convolution_blocks(c.D), sums = (c.k + 1) * c.D;
  const Range mine = part_of(blocks * c.groups, m.rank, m.team->size);
  for (Index position = mine.begin; position < mine.end; ++position) {
    const Index group = position % c.groups;
    ConvolutionBlock<T> b(c, position / c.groups, c.work + m.rank * convolution_rows(c.k) * kRow);
    double* const of_group = c.sums + group * sums + b.from;
    for (Index j = 0; j <= c.k; ++j)
      for (Index i = 0; i < b.count; ++i) of_group[j * c.D + i] = 0;
    const Range rows = part_of(c.B, group, c.groups);
    for (Index row = rows.begin; row < rows.end; ++row) {
      for (Index j = 0; j < c.k - 1; ++j)
        copy_row(c.dstate_n ? c.dstate_n + (row * (c.k - 1) + j) * c.D + b.from : nullptr, b.earlier + j * kRow,
                 b.count);
      const RowSteps steps{c.flags, c.B, row, 0};
      for (Index t = c.T_; t > 0;) {
        Index begin = t - 1;
        if (steps.runs(begin)) {
          begin = steps.begin(t, kConvolutionSteps);
          const Index n = t - begin;
          earlier_inputs(c, b, steps, begin);
          for (Index i = 0; i < n; ++i)
            copy_row(c.x.of(begin + i, row) + b.from, b.inputs + (c.k - 1 + i) * kRow, b.count);
          for (Index l = 0; l < b.padded; l += kLanes<T>)
            convolution_chunk_backward(c, b, begin, row, n, l, of_group + l);
          did(m, static_cast<double>(6 * n * c.k * b.padded));
        } else {
          copy_row<T>(nullptr, c.dx.of(begin, row) + b.from, b.count);
          did(m, static_cast<double>(b.padded));
        }
        if (steps.cut(begin))
          for (Index j = 0; j < c.k - 1; ++j) copy_row<T>(nullptr, b.earlier + j * kRow, b.count);
        t = begin;
        if (stopped(m)) return;
      }
      for (Index j = 0; j < c.k - 1; ++j)
        copy_row(b.earlier + j * kRow, c.dstate + (row * (c.k - 1) + j) * c.D + b.from, b.count);
    }
  }
  if (!barrier(m)) return;
  const Range channels = part_of(c.D, m.rank, m.team->size);
  for (Index d = channels.begin; d < channels.end; ++d)
    for (Index j = 0; j <= c.k; ++j) {
      double total = 0;
      for (Index group = 0; group < c.groups; ++group) total += c.sums[group * sums + j * c.D + d];
      (j < c.k ? c.dweight[d * c.k + j] : c.dbias[d]) = static_cast<T>(total);
    }
}

}  // namespace fusedrnn::FUSEDRNN_ISA

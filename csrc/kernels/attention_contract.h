// The contract between core and the kernels of causal convolutions (convolution.h) and of linear attention
// (attention.h). As in recurrence_contract.h, core allocates every array, all arrays over time are in running order,
// and strides count elements.
#pragma once

#include "recurrence_contract.h"

namespace fusedrnn {

// An array (T, B, width) whose rows are contiguous.
template <class T>
struct Series {
  T* at = nullptr;
  Index time = 0, row = 0;
  FUSEDRNN_INLINE T* of(Index t, Index b) const { return at + t * time + b * row; }
};

FUSEDRNN_INLINE Index rounded_up(Index n, Index to) { return (n + to - 1) / to * to; }

// p_t = bias + sum_j weight_j x_{t-k+1+j}, y_t = p_t or p_t sigmoid(p_t), for each of D channels.
template <class T>
struct Convolution {
  Index T_ = 0, B = 0, D = 0, k = 0;
  bool silu = false;
  const uint8_t* flags = nullptr;
  Series<const T> x;
  const T *weight = nullptr, *bias = nullptr;  // (D, k); (D,) or null
  const T* state = nullptr;                    // (B, k - 1, D), or null: zeros
  Series<T> y;                                 // forward only
  T* state_n = nullptr;

  // Backward only. dstate_n may be null: zeros.
  Series<const T> dy;
  const T* dstate_n = nullptr;
  Series<T> dx;
  T *dweight = nullptr, *dbias = nullptr, *dstate = nullptr;
  Index groups = 1;        // of rows, whose gradients of the weights are summed apart
  double* sums = nullptr;  // (groups, k + 1, D)

  T* work = nullptr;  // convolution_work() numbers for each thread
};

inline constexpr Index kConvolutionBlock = 256;  // channels that a thread carries through time at once
inline constexpr Index kConvolutionSteps = 16;   // steps of a chunk, which is in L1 beside the weights
inline constexpr Index kConvolutionGroups = 8;

FUSEDRNN_INLINE Index convolution_blocks(Index D) { return (D + kConvolutionBlock - 1) / kConvolutionBlock; }
// The bias and the weights; the inputs, with those of earlier steps; gradients of p; of earlier steps; the sums.
FUSEDRNN_INLINE Index convolution_rows(Index k) {
  return (k + 1) + (k - 1 + kConvolutionSteps) + kConvolutionSteps + k;
}

// S_t = exp(decay_t) S_{t-1} + k_t w_t^T, o_t = scale S_t^T q_t, with w_t = v_t or beta_t (v_t - S^T k_t), S decayed.
template <class T>
struct Attention {
  Index T_ = 0, B = 0, heads = 0, kv_heads = 0, dk = 0, dv = 0;
  T scale = 1;
  const uint8_t* flags = nullptr;
  enum Decay { kNone, kPerHead, kPerKey };
  Decay decays = kNone;
  Index beta_head = 0;                   // stride of heads of beta: 1, or 0 when all heads share it
  Series<const T> q, k, v, decay, beta;  // beta.at null: no delta correction
  Series<T> error;                       // v_t - S^T k_t: forward writes, backward reads it; with the delta correction
  const T* S_0 = nullptr;                // (B, kv_heads, dk, dv), or null: zeros
  Series<T> o;                           // forward only
  T* S_n = nullptr;

  // Backward only. dS_n may be null: zeros.
  Series<const T> d_o;
  const T* dS_n = nullptr;
  Series<T> dq, dk_, dv_, ddecay, dbeta;
  T* dS_0 = nullptr;
  // Sums over blocks of keys of the gradient of a decay per head, and over blocks of values of that of beta:
  // (T, B, kv_heads, blocks).
  T *decay_parts = nullptr, *beta_parts = nullptr;
  Index spacing = 0, checkpoints = 0;  // of states, from which the gradient of the decay starts anew

  T* work = nullptr;  // `work_size` numbers for each thread
  Index work_size = 0;

  FUSEDRNN_INLINE Index group() const { return heads / kv_heads; }
};

inline constexpr Index kAttentionSteps = 32;   // most steps of a chunk
inline constexpr Index kAttentionVectors = 4;  // most vectors of a row of a state, in a register tile
inline constexpr Index kSweepVectors = 2;      // and where each step needs the whole state, in L1
inline constexpr Index kAttentionSpacing = 128, kAttentionCheckpoints = 64;

// The stride of packed rows of a tile's operands: not a power of two.
FUSEDRNN_INLINE Index attention_row(Index count, Index lanes) { return rounded_up(count, lanes) + lanes; }

// What a thread needs; the arrays of `at` are taken from it in this order.
template <class T>
struct AttentionWork {
  T *state, *u, *y, *decay, *pre_u, *pre_c, *c, *zeros, *packed_c, *packed_e, *checkpoints;
  Index size;
};
template <class T>
FUSEDRNN_INLINE AttentionWork<T> attention_work(const Attention<T>& a, Index lanes, T* at) {
  const Index width = kAttentionVectors * lanes, rows = rounded_up(a.dk > a.dv ? a.dk : a.dv, width);
  const Index group = a.group(), steps = kAttentionSteps, packed = attention_row(rows, lanes);
  const Index sizes[] = {rows * width,
                         steps * group * width,
                         steps * (group + 1) * width,
                         (steps + 1) * rows + steps + 2 * lanes,
                         (steps + 1) * width,
                         (steps + 1) * rows,
                         steps * rows,
                         rows,
                         steps * group * packed,
                         steps * (group + 1) * packed,
                         a.checkpoints * rows * width};
  AttentionWork<T> w;
  T** const arrays[] = {&w.state, &w.u,     &w.y,        &w.decay,    &w.pre_u,      &w.pre_c,
                        &w.c,     &w.zeros, &w.packed_c, &w.packed_e, &w.checkpoints};
  w.size = 0;
  for (int i = 0; i < 11; ++i) *arrays[i] = at ? at + w.size : nullptr, w.size += rounded_up(sizes[i], 16);
  return w;
}

// The entry points of one instruction set for one dtype.
template <class T>
struct AttentionTable {
  Index lanes, width, sweep_width;  // widths of blocks of keys or values, in register tiles and with the delta rule
  void (*convolution_forward)(const Convolution<T>&, Member&);
  void (*convolution_backward)(const Convolution<T>&, Member&);
  void (*attention_forward)(const Attention<T>&, Member&);
  void (*attention_backward)(const Attention<T>&, Member&);
};

}  // namespace fusedrnn

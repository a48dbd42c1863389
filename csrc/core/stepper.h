// Streams: stacked one-directional layers that advance by one step per call.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "../kernels/contract.h"
#include "buffer.h"
#include "weights.h"

namespace fusedrnn {

// Stacked one-directional layers, one step at a time. A step runs on the calling thread and then allocates nothing;
// when the weights exceed a core's cache, it may run on several threads. Owns the states.
class StepRunnerBase {
 public:
  explicit StepRunnerBase(Dtype dtype_) : dtype(dtype_) {}
  virtual ~StepRunnerBase() = default;
  const Dtype dtype;
};

template <class T>
class StepRunner final : public StepRunnerBase {
 public:
  // alone: always on the calling thread, for callers that must not wait or allocate. window: the weights of each layer
  // multiply the inputs of so many steps, the oldest first, and the runner keeps those of the last steps.
  StepRunner(std::vector<std::shared_ptr<const Weights<T>>> layers, Index B, bool alone = false, Index window = 1);
  // x: rows of (B, I), or tokens (B,); y: (B, H), rows contiguous. Throws std::out_of_range for a token outside [0, I),
  // before any state has changed.
  void step(const T* x, const std::int64_t* tokens, T* y);
  // The current h (which = 0) or c (1) of all layers, (layers, B, H).
  void read_state(int which, T* to) const;
  void write_state(int which, const T* from);
  // The inputs of a layer's last window - 1 steps, the oldest first, (B, window - 1, I); zeros before the first step.
  void read_inputs(std::size_t layer, T* to) const;
  void write_inputs(std::size_t layer, const T* from);
  template <class Chosen>
  void reset(Chosen chosen) {  // zeros the state of every row b with chosen(b), called once per row, and its inputs
    for (Index b = 0; b < B_; ++b) {
      if (!chosen(b)) continue;
      for (std::size_t l = 0; l < layers_.size(); ++l) {
        for (int s = 0; s < states(); ++s) std::fill_n(state(l, s) + b * padded(l, s), padded(l, s), T(0));
        if (T* const wide = layers_[l].wide) std::fill_n(wide + b * weights(l).I, weights(l).I, T(0));
      }
    }
  }
  Index padded(std::size_t layer, int which) const { return layers_[layer].weights->padded(which); }
  int states() const { return layers_.front().weights->kernel().states; }
  std::size_t layers() const { return layers_.size(); }
  const Weights<T>& weights(std::size_t layer) const { return *layers_[layer].weights; }
  Index B() const { return B_; }
  Index window() const { return window_; }
  Index inputs(std::size_t layer) const { return weights(layer).I / window_; }  // of one step
  double flops() const { return flops_; }

 private:
  struct Layer {
    std::shared_ptr<const Weights<T>> weights;
    Buffer memory;
    Forward<T> forward;
    T* wide = nullptr;  // with a window: the inputs of the last steps, (B, window * I)
  };
  T* state(std::size_t layer, int which) const;  // (B, padded)
  void shift_in(Layer& layer, const T* x, Index stride, const std::int64_t* tokens) const;

  Index threads() const;

  Index B_, window_;
  std::vector<std::int64_t> tokens_;  // checked tokens of the current step
  std::vector<Layer> layers_;
  double flops_ = 0, weight_bytes_ = 0;
  bool shareable_ = false;   // the weights are large enough for several threads
  long long last_step_ = 0;  // when it ended; only set if shareable_
};

}  // namespace fusedrnn

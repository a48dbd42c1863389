// Streams: stacked one-directional layers that advance by one step a call.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "api.h"
#include "buffer.h"
#include "weights.h"

namespace fusedrnn {

// Stacked one-way layers, one step at a time: on the calling thread, which then allocates nothing, or, when the weights
// exceed a core's cache, on several. Owns the states.
class StepRunnerBase {
 public:
  explicit StepRunnerBase(Dtype dtype_) : dtype(dtype_) {}
  virtual ~StepRunnerBase() = default;
  const Dtype dtype;
};

template <class T>
class StepRunner final : public StepRunnerBase {
 public:
  // alone: on the calling thread whatever the size, as callers need who must not wait or allocate.
  StepRunner(std::vector<std::shared_ptr<const Weights<T>>> layers, Index B, bool alone = false);
  // x: rows of (B, I), or tokens (B,); y: (B, H), rows contiguous. Throws std::out_of_range for a token outside [0, I),
  // before anything has changed.
  void step(const T* x, const std::int64_t* tokens, T* y);
  // All layers' h (which = 0) or c (1) as of now, (layers, B, H).
  void read_state(int which, T* to) const;
  void write_state(int which, const T* from);
  template <class Chosen>
  void reset(Chosen chosen) {  // zeros for every row b with chosen(b), asked once a row
    for (Index b = 0; b < B_; ++b) {
      if (!chosen(b)) continue;
      for (std::size_t l = 0; l < layers_.size(); ++l)
        for (int s = 0; s < states(); ++s) std::fill_n(state(l, s) + b * padded(l, s), padded(l, s), T(0));
    }
  }
  Index padded(std::size_t layer, int which) const { return layers_[layer].weights->padded(which); }
  int states() const { return layers_.front().weights->kernel().states; }
  std::size_t layers() const { return layers_.size(); }
  const Weights<T>& weights(std::size_t layer) const { return *layers_[layer].weights; }
  Index B() const { return B_; }
  double flops() const { return flops_; }

 private:
  struct Layer {
    std::shared_ptr<const Weights<T>> weights;
    Buffer memory;
    Forward<T> forward;
  };
  T* state(std::size_t layer, int which) const;  // (B, padded)

  Index threads() const;

  Index B_;
  std::vector<std::int64_t> tokens_;  // of the step under way, checked
  std::vector<Layer> layers_;
  double flops_ = 0, weight_bytes_ = 0;
  bool shareable_ = false;   // the weights are worth several threads
  long long last_step_ = 0;  // when it ended, if so
};

}  // namespace fusedrnn

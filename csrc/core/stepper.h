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
  // alone: always on the calling thread, for callers that must not wait or allocate.
  StepRunner(std::vector<std::shared_ptr<const Weights<T>>> layers, Index B, bool alone = false);
  // x: rows of (B, I), or tokens (B,); y: (B, H), rows contiguous. Throws std::out_of_range for a token outside [0, I),
  // before any state has changed.
  void step(const T* x, const std::int64_t* tokens, T* y);
  // The current h (which = 0) or c (1) of all layers, (layers, B, H).
  void read_state(int which, T* to) const;
  void write_state(int which, const T* from);
  template <class Chosen>
  void reset(Chosen chosen) {  // zeros the state of every row b with chosen(b), called once per row
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
  std::vector<std::int64_t> tokens_;  // checked tokens of the current step
  std::vector<Layer> layers_;
  double flops_ = 0, weight_bytes_ = 0;
  bool shareable_ = false;   // the weights are large enough for several threads
  long long last_step_ = 0;  // when it ended; only set if shareable_
};

}  // namespace fusedrnn

// The packed weights of one layer in one direction, and the names of cells, activations and forms.
#pragma once

#include <cstddef>
#include <string>

#include "../kernels/contract.h"
#include "buffer.h"
#include "dispatch.h"
#include "dtype.h"
#include "run.h"

namespace fusedrnn {

CellId cell_named(const std::string& name);  // throws std::invalid_argument
ActivationId activation_named(const std::string& name);
const char* name_of(CellId cell);
const char* name_of(ActivationId function);
const char* name_of(Form form);

// The options of a layer that are not the cell's own: see kernels/forms.h.
struct Structure {
  Index R = 0;                      // units of a projected h; 0: no projection
  double zoneout[kMaxStates] = {};  // rates for h and c; masks replace them in training
  bool normed = false;              // layer normalisation, with the parameters in RawWeights::norm
};

class WeightsBase {
 public:
  virtual ~WeightsBase() = default;
  const Kernels* kernels;
  CellId cell;
  Index I, H, R;  // R: units of h
  Structure structure;
  bool training;
  std::size_t nbytes;
  Dtype dtype;
};

template <class T>
class Weights final : public WeightsBase {
 public:
  Weights(const Kernels& kernels, CellId cell, const CellOptions& options, Index I, Index H, const RawWeights<T>& raw,
          bool training, const Structure& structure = {}, Interrupt interrupt = {});
  const CellKernels<T>& kernel() const;
  Index padded() const;  // hidden units rounded up to whole vectors
  Index units(int state) const { return state == 0 ? R : H; }
  Index padded(int state) const;
  bool has_form(Form form) const { return kernel().forward[form] != nullptr; }
  Form form(bool masked) const;
  // Bytes of stored weights: those that every step of a sequence reads, and those that a single streaming step reads.
  std::size_t recurrent_bytes() const;
  std::size_t step_bytes() const;

  Packed<T> packed;

 private:
  Buffer memory_;
};

}  // namespace fusedrnn

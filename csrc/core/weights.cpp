#include "weights.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "cpu.h"
#include "run.h"

namespace fusedrnn {

#define FUSEDRNN_TEXT(type, text, ...) text,
static constexpr const char* kCellNames[] = {FUSEDRNN_CELLS(FUSEDRNN_TEXT)};
static constexpr const char* kActivationNames[] = {FUSEDRNN_ACTIVATIONS(FUSEDRNN_TEXT)};
#undef FUSEDRNN_TEXT

template <class Id, int N>
static Id named(const char* const (&names)[N], const std::string& name, const char* what) {
  for (int i = 0; i < N; ++i)
    if (name == names[i]) return static_cast<Id>(i);
  throw std::invalid_argument(std::string("unknown ") + what + " '" + name + "'");
}
CellId cell_named(const std::string& name) { return named<CellId>(kCellNames, name, "cell"); }
ActivationId activation_named(const std::string& name) {
  return named<ActivationId>(kActivationNames, name, "activation");
}
const char* name_of(CellId cell) { return kCellNames[cell]; }
const char* name_of(ActivationId function) { return kActivationNames[function]; }
const char* name_of(Form form) {
  static constexpr const char* kNames[kFormCount] = {"plain", "masked", "projected", "normed"};
  return kNames[form];
}

template <class T>
const CellKernels<T>& Weights<T>::kernel() const {
  return table_of<T>(*kernels).cell(cell);
}

template <class T>
Index Weights<T>::padded() const {
  const Index lanes = table_of<T>(*kernels).lanes;
  return (H + lanes - 1) / lanes * lanes;
}

template <class T>
Index Weights<T>::padded(int state) const {
  const Index lanes = table_of<T>(*kernels).lanes;
  return (units(state) + lanes - 1) / lanes * lanes;
}

template <class T>
std::size_t Weights<T>::recurrent_bytes() const {
  return size(kernel().gates) * size(padded()) * size(packed.R) * sizeof(T);
}

template <class T>
std::size_t Weights<T>::step_bytes() const {
  return size(kernel().gates * H * (I + packed.R) + H * structure.R) * sizeof(T);
}

template <class T>
Form Weights<T>::form(bool masked) const {
  if (structure.normed) return kNormed;
  if (structure.R) return kProjected;
  const bool plain = !masked && structure.zoneout[0] == 0 && structure.zoneout[1] == 0;
  return plain && has_form(kPlain) ? kPlain : kMasked;
}

template <class T>
Weights<T>::Weights(const Kernels& kernels_, CellId cell_, const CellOptions& options, Index I_, Index H_,
                    const RawWeights<T>& raw, bool training_, const Structure& structure_, Interrupt interrupt) {
  kernels = &kernels_;
  cell = cell_, I = I_, H = H_, training = training_, structure = structure_;
  R = structure.R ? structure.R : H;
  dtype = kDtypeOf<T>;
  if (!has_form(form(false))) throw std::invalid_argument("Weights: this cell has no such form");
  const Index lanes = table_of<T>(*kernels).lanes;
  const std::size_t wide = size(padded()), wide_R = kernel().recurrent ? size(padded(0)) : 0,
                    wide_I = size((I + lanes - 1) / lanes * lanes), G = size(kernel().gates);
  packed.I = I, packed.H = H, packed.R = kernel().recurrent ? R : 0;
  if (H % kernel().sharing) throw std::invalid_argument("Weights: hidden_size is odd, but units are pairs");
  if (kernel().skip && I != H) throw std::invalid_argument("Weights: x itself needs as many inputs as units");
  packed.options = options;
  Arena arena;
  arena.claim(packed.W_x, product(G * wide, size(I)));
  arena.claim(packed.W_h, product(G * wide, size(packed.R)));
  arena.claim(packed.b_x, G * wide);
  arena.claim(packed.b_h, wide);
  const std::size_t unit_parameters = size(kernel().unit_parameters);
  if (unit_parameters > 0) arena.claim(packed.units, product(unit_parameters, wide));
  if (training) {
    arena.claim(packed.W_x_back, product(G * wide, wide_I));
    arena.claim(packed.W_h_back, product(G * wide, wide_R));
  }
  if (structure.R) arena.claim(packed.W_r, product(wide_R, size(H)));
  if (structure.R && training) arena.claim(packed.W_r_back, product(wide_R, wide));
  if (structure.normed) {
    Norm<T>& norm = packed.norm;
    for (T** gates : {&norm.gain_x, &norm.gain_h, &norm.bias_x, &norm.bias_h}) arena.claim(*gates, G * wide);
    for (T** units : {&norm.gain_c, &norm.bias_c}) arena.claim(*units, wide);
    norm.eps = static_cast<T>(raw.norm.eps);
  }
  memory_ = arena.allocate();
  nbytes = arena.size();
  packed.fetch_ahead = recurrent_bytes() > l2_bytes();
  if (unit_parameters > 0) {
    std::memset(packed.units, 0, unit_parameters * wide * sizeof(T));
    const Index sharing = kernel().sharing;
    for (Index row = 0; row < raw.unit_rows; ++row) {
      T* const to = packed.units + (static_cast<Index>(unit_parameters) - raw.unit_rows + row) * padded();
      for (Index unit = 0; unit < H; ++unit) to[unit] = raw.units[(row * H + unit) / sharing];
    }
  }
  if (structure.normed) kernel().pack_norm(raw.norm, packed.norm, H);

  const auto pack = [&](Member& m) { kernel().pack(raw, packed, m); };
  Machine machine;
  const double bytes = static_cast<double>(nbytes);
  if (bytes >= machine.pack_alone_bytes) machine.threads = ThreadLimit().most();
  const Index threads = threads_for_packing(bytes, machine);
  if (threads == 1) run_alone(pack, interrupt);
  else if (!run_teams({{{threads, 1}, pack}}, interrupt.check, interrupt.argument)) throw Interrupted();
}

template class Weights<float>;
template class Weights<double>;

}  // namespace fusedrnn

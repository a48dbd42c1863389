// QRNN with fo-pooling: z = tanh(a_z), f = sigmoid(a_f), o = sigmoid(a_o); c' = f c + (1 - f) z, h' = o c'. Bradbury et
// al. 2017, "Quasi-recurrent neural networks", arXiv:1611.01576; python/fusedrnn/reference/cells/qrnn.py is the same in
// NumPy. Zoneout, as in the paper, replaces f by share + (1 - share) f: a unit that is zoned out keeps its c, and h'
// sees that c.
#pragma once

#include "cell.h"

namespace fusedrnn::FUSEDRNN_ISA {

class QRNN : public ElementwiseCell {
 public:
  static constexpr int gates = 3, states = 2, skip = 0, saved = 3, unit_parameters = 0;
  static constexpr int order[] = {0, 1, 2};

  inline explicit QRNN(const CellOptions&) {}

  template <class V>
  void forward(const V* a, const V* s, const V*, V* s_new, V* save) const {
    step(a, s, sigmoid(a[1]), s_new, save);
  }
  template <class V>
  void backward(const V* save, const V* s, const V* s_new, const V*, const V* ds_new, V* da, V* ds, V*) const {
    da[1] = step_back(save, s, s_new, save[1], ds_new, da, ds);
  }

  // The same with zoneout: `share` is the share of c that a unit keeps.
  template <class V>
  void forward_zoned(const V* a, const V* s, V share, V* s_new, V* save) const {
    const V f = sigmoid(a[1]);
    step(a, s, share + (Element<V>(1) - share) * f, s_new, save);
    save[1] = f;
  }
  template <class V>
  void backward_zoned(const V* save, const V* s, const V* s_new, V share, const V* ds_new, V* da, V* ds) const {
    const V f = save[1], rest = Element<V>(1) - share;
    step_back(save, s, s_new, share + rest * f, ds_new, da, ds);
    da[1] = ds_new[0] * save[2] + ds_new[1];
    da[1] = da[1] * (s[1] - save[0]) * rest * f * (Element<V>(1) - f);
  }

 private:
  template <class V>
  static void step(const V* a, const V* s, V f, V* s_new, V* save) {
    const V z = tanh(a[0]), o = sigmoid(a[2]);
    s_new[1] = f * (s[1] - z) + z;
    s_new[0] = o * s_new[1];
    save[0] = z, save[1] = f, save[2] = o;
  }
  // Returns the gradient of a_f for a gate f that is a sigmoid.
  template <class V>
  static V step_back(const V* save, const V* s, const V* s_new, V f, const V* ds_new, V* da, V* ds) {
    using T = Element<V>;
    const V z = save[0], o = save[2], dh = ds_new[0], dc = dh * o + ds_new[1];
    da[0] = dc * (T(1) - f) * (T(1) - z * z);
    da[2] = dh * s_new[1] * o * (T(1) - o);
    ds[0] = V{}, ds[1] = dc * f;
    return dc * (s[1] - z) * f * (T(1) - f);
  }
};

}  // namespace fusedrnn::FUSEDRNN_ISA

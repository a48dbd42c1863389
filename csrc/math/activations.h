// Activation functions as objects. A cell applies them in forward, and passes gradients through them in backward:
//
//   f(a)             the value
//   f.keep(a, y)     what backward needs of argument and value
//   f.recall(kept)   the value again
//   f.back(dy, kept, y)   dy * f'(a)
//
// Sigmoid, Tanh and Relu are compiled in and keep their value. Chosen is any function, picked at run time: it keeps its
// argument, because a clip or a negative alpha cannot be recovered from the value. All vectors of a call take the same
// branch of its switch; the two usual functions are tested first, so that an option elsewhere in a cell is almost free.
#pragma once

#include "functions.h"
#include "math.h"

namespace fusedrnn::FUSEDRNN_ISA {

struct Sigmoid {
  template <class V>
  V operator()(V a) const {
    return sigmoid(a);
  }
  template <class V>
  V keep(V, V y) const {
    return y;
  }
  template <class V>
  V recall(V y) const {
    return y;
  }
  template <class V>
  V back(V dy, V, V y) const {
    return dy * y * (Element<V>(1) - y);
  }
};

struct Tanh {
  template <class V>
  V operator()(V a) const {
    return tanh(a);
  }
  template <class V>
  V keep(V, V y) const {
    return y;
  }
  template <class V>
  V recall(V y) const {
    return y;
  }
  template <class V>
  V back(V dy, V, V y) const {
    return dy * (Element<V>(1) - y * y);
  }
};

struct Relu {
  template <class V>
  V operator()(V a) const {
    return max(V{}, a);  // zero first, so that a NaN survives
  }
  template <class V>
  V back(V dy, V, V y) const {
    return y <= Element<V>(0) ? V{} : dy;  // in this order, a NaN passes its gradient on
  }
};

template <class V>
inline V magnitude(V x) {
  return (V)((Bits<V>)x & ~(Bits<V>)splat(Element<V>(-0.0)));
}

// Limits x to [-bound, bound]; a NaN stays NaN.
template <class V>
inline V limit(V x, Element<V> bound) {
  return min(splat(bound), max(splat(-bound), x));
}

template <class V>
[[gnu::noinline]] V rare_activation(const Activation& f, V x) {
  using T = Element<V>;
  const T alpha = static_cast<T>(f.alpha), beta = static_cast<T>(f.beta);
  switch (f.id) {
    case kSigmoid:
      return sigmoid(x);
    case kTanh:
      return tanh(x);
    case kRelu:
      return max(V{}, x);
    case kHardSigmoid:
      return min(splat(T(1)), max(V{}, alpha * x + beta));
    case kHardTanh:
      return limit(x, T(1));
    case kSoftsign:
      x = limit(x, MathConstants<T>::largest);
      return x / (T(1) + magnitude(x));
    case kSoftplus:
      return max(V{}, x) + log1p(exp(-magnitude(x)));
    case kLeakyRelu:
      return x <= T(0) ? alpha * x : x;
    case kElu: {
      const V half = tanh(min(V{}, x) * T(0.5));  // e^x - 1 = 2 t / (1 - t), without the cancellation
      return x > T(0) ? x : alpha * (half + half) / (T(1) - half);
    }
    case kAffine:
      return alpha * x + beta;
    case kScaledTanh:
      return alpha * tanh(beta * x);
    case kThresholdedRelu:
      return x <= alpha ? V{} : x;
    default:
      return x;
  }
}

// f'(x), where y = f(x).
template <class V>
[[gnu::noinline]] V rare_slope(const Activation& f, V x, V y) {
  using T = Element<V>;
  const T alpha = static_cast<T>(f.alpha), beta = static_cast<T>(f.beta);
  const V one = splat(T(1));
  switch (f.id) {
    case kSigmoid:
      return y * (one - y);
    case kTanh:
      return one - y * y;
    case kRelu:
      return x <= T(0) ? V{} : one;
    case kHardSigmoid:
      return y > T(0) && y < T(1) ? splat(alpha) : V{};
    case kHardTanh:
      return magnitude(x) < T(1) ? one : V{};
    case kSoftsign: {
      const V root = one / (one + magnitude(x));
      return root * root;
    }
    case kSoftplus:
      return sigmoid(x);
    case kLeakyRelu:
      return x <= T(0) ? splat(alpha) : one;
    case kElu:
      return x > T(0) ? one : y + alpha;
    case kAffine:
      return splat(alpha);
    case kScaledTanh: {
      const V t = tanh(beta * x);
      return alpha * beta * (one - t * t);
    }
    case kThresholdedRelu:
      return x <= alpha ? V{} : one;
    default:
      return one;
  }
}

class Chosen {
 public:
  inline Chosen(const Activation& f, double clip) : f_(f), clip_(clip) {}

  template <class V>
  V operator()(V a) const {
    a = limit(a, clip<V>());
    if (f_.id == kSigmoid) return sigmoid(a);
    if (f_.id == kTanh) return tanh(a);
    return rare_activation(f_, a);
  }
  template <class V>
  V keep(V a, V) const {
    return a;
  }
  template <class V>
  V recall(V a) const {
    return (*this)(a);
  }
  template <class V>
  V back(V dy, V a, V y) const {
    using T = Element<V>;
    V d;
    if (f_.id == kSigmoid) d = dy * y * (T(1) - y);
    else if (f_.id == kTanh) d = dy * (T(1) - y * y);
    else d = dy * rare_slope(f_, limit(a, clip<V>()), y);
    return magnitude(a) > clip<V>() ? V{} : d;
  }

 private:
  template <class V>
  Element<V> clip() const {
    return static_cast<Element<V>>(clip_);
  }
  Activation f_;
  double clip_;
};

}  // namespace fusedrnn::FUSEDRNN_ISA

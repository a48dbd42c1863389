// The only conversion from a run-time dtype to a type:
//   with_dtype(dtype, [&](auto zero) { using T = decltype(zero); ... })
#pragma once

namespace fusedrnn {

enum class Dtype { kFloat32, kFloat64 };

template <class T>
inline constexpr Dtype kDtypeOf = Dtype::kFloat32;
template <>
inline constexpr Dtype kDtypeOf<double> = Dtype::kFloat64;

template <class Call>
auto with_dtype(Dtype dtype, Call call) -> decltype(call(float())) {
  return dtype == Dtype::kFloat64 ? call(double()) : call(float());
}

}  // namespace fusedrnn

// Selects the ISA: the implementations in this build that this CPU can run, and the one in use.
#pragma once

#include <string>
#include <vector>

#include "../kernels/attention_contract.h"

namespace fusedrnn {

const std::vector<const Kernels*>& available_kernels();  // fastest first
const Kernels& current_kernels();
bool use_kernels(const std::string& name);  // false: not available on this machine

// Empty, or the reason why FUSEDRNN_ISA could not be honoured.
const std::string& dispatch_complaint();

template <class T>
const KernelTable<T>& table_of(const Kernels& k) {
  if constexpr (sizeof(T) == 4) return k.f32;
  else return k.f64;
}

// The kernels of linear recurrences of the same level.
const RecurrenceTable<float>& recurrences_f32(const Kernels& k);
const RecurrenceTable<double>& recurrences_f64(const Kernels& k);
template <class T>
const RecurrenceTable<T>& recurrences_of(const Kernels& k) {
  if constexpr (sizeof(T) == 4) return recurrences_f32(k);
  else return recurrences_f64(k);
}

// The kernels of convolutions and linear attention of the same level.
const AttentionTable<float>& attention_f32(const Kernels& k);
const AttentionTable<double>& attention_f64(const Kernels& k);
template <class T>
const AttentionTable<T>& attention_of(const Kernels& k) {
  if constexpr (sizeof(T) == 4) return attention_f32(k);
  else return attention_f64(k);
}

}  // namespace fusedrnn

#include "dispatch.h"

#include <atomic>
#include <cstdlib>

#include "cpu.h"
#include "selective_scan.h"

namespace fusedrnn {

// isas.inc is written by CMakeLists.txt: FUSEDRNN_LEVEL(name) for each level built, fastest first.
#define FUSEDRNN_LEVEL(isa)                                \
  namespace isa {                                          \
  extern const KernelTable<float> kernels_float;           \
  extern const KernelTable<double> kernels_double;         \
  extern const RecurrenceTable<float> recurrences_float;   \
  extern const RecurrenceTable<double> recurrences_double; \
  extern const SelectiveTable<float> selective_float;      \
  extern const SelectiveTable<double> selective_double;    \
  extern const AttentionTable<float> attention_float;      \
  extern const AttentionTable<double> attention_double;    \
  }
#include "isas.inc"
#undef FUSEDRNN_LEVEL

namespace {

bool runs_here(const std::string& name) {
  if (name == "avx512") return cpu_has_avx512();
  if (name == "avx2") return cpu_has_avx2();
  return true;  // sse2 and neon are the base of their architectures
}

std::string lower_case(std::string text) {
  for (char& c : text)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return text;
}

struct Dispatch {
  std::vector<const Kernels*> available;
  std::atomic<const Kernels*> current{nullptr};
  std::string complaint;

  Dispatch() {
#define FUSEDRNN_LEVEL(isa)                                                       \
  {                                                                               \
    static const Kernels level = {#isa, isa::kernels_float, isa::kernels_double}; \
    if (runs_here(level.name)) available.push_back(&level);                       \
  }
#include "isas.inc"
#undef FUSEDRNN_LEVEL
    current = available.front();
    const char* wanted = std::getenv("FUSEDRNN_ISA");
    if (wanted && *wanted && !select(lower_case(wanted))) {
      complaint = std::string("FUSEDRNN_ISA is '") + wanted + "'; this build and CPU offer";
      for (const Kernels* k : available) complaint += std::string(" '") + k->name + "'";
    }
  }

  bool select(const std::string& name) {
    for (const Kernels* k : available)
      if (name == k->name) {
        current = k;
        return true;
      }
    return false;
  }
};

// Never destroyed: threads may still be in a call while the process ends.
Dispatch& dispatch() {
  static Dispatch& instance = *new Dispatch;
  return instance;
}

}  // namespace

const std::vector<const Kernels*>& available_kernels() { return dispatch().available; }
const Kernels& current_kernels() { return *dispatch().current.load(); }
bool use_kernels(const std::string& name) { return dispatch().select(name); }
const std::string& dispatch_complaint() { return dispatch().complaint; }

#define FUSEDRNN_LEVEL(isa) \
  if (std::string(k.name) == #isa) return isa::recurrences_float;
const RecurrenceTable<float>& recurrences_f32(const Kernels& k) {
#include "isas.inc"
  std::abort();  // every level has a table
}
#undef FUSEDRNN_LEVEL
#define FUSEDRNN_LEVEL(isa) \
  if (std::string(k.name) == #isa) return isa::recurrences_double;
const RecurrenceTable<double>& recurrences_f64(const Kernels& k) {
#include "isas.inc"
  std::abort();
}
#undef FUSEDRNN_LEVEL
#define FUSEDRNN_LEVEL(isa) \
  if (std::string(k.name) == #isa) return isa::attention_float;
const AttentionTable<float>& attention_f32(const Kernels& k) {
#include "isas.inc"
  std::abort();
}
#undef FUSEDRNN_LEVEL
#define FUSEDRNN_LEVEL(isa) \
  if (std::string(k.name) == #isa) return isa::attention_double;
const AttentionTable<double>& attention_f64(const Kernels& k) {
#include "isas.inc"
  std::abort();
}
#undef FUSEDRNN_LEVEL

#define FUSEDRNN_LEVEL(isa) \
  if (std::string(k.name) == #isa) return isa::selective_float;
const SelectiveTable<float>& selective_f32(const Kernels& k) {
#include "isas.inc"
  std::abort();
}
#undef FUSEDRNN_LEVEL
#define FUSEDRNN_LEVEL(isa) \
  if (std::string(k.name) == #isa) return isa::selective_double;
const SelectiveTable<double>& selective_f64(const Kernels& k) {
#include "isas.inc"
  std::abort();
}
#undef FUSEDRNN_LEVEL

}  // namespace fusedrnn

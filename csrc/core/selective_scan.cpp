#include "selective_scan.h"

#include <algorithm>

#include "dispatch.h"

namespace fusedrnn {
namespace {

// The time of one thread: vector instructions of a state and step, of which a core of 3 GHz issues two in a cycle.
template <class T>
double seconds(const SelectiveScan<T>& s, Index lanes, double instructions) {
  const double states = static_cast<double>(s.T_) * static_cast<double>(s.B) * static_cast<double>(s.D) *
                        static_cast<double>(s.N) * (s.complex ? 4 : 1);
  return states * instructions / static_cast<double>(lanes) / 6e9;
}

std::size_t numbers(std::initializer_list<Index> sizes) {
  std::size_t n = 1;
  for (const Index s : sizes) n = product(n, size(s));
  return n;
}

}  // namespace

template <class T>
std::unique_ptr<SelectiveTape> selective_forward(SelectiveScan<T> scan, std::shared_ptr<const StepFlags> flags,
                                                 bool keep, Interrupt interrupt) {
  const Kernels& kernels = current_kernels();
  const SelectiveTable<T>& table = selective_of<T>(kernels);
  const Index lanes = table.lanes, parts = scan.complex ? 2 : 1;
  const Channels channels(scan.D, scan.G, lanes);
  const Index blocks = scan.G * channels.blocks_of_group;
  scan.flags = flags ? flags->bytes() : nullptr;
  std::unique_ptr<SelectiveTape> tape;
  if (keep) {
    const Index chunks = (scan.T_ - 1) / kSelectiveChunk + 1;
    const std::size_t bytes = product(numbers({chunks, scan.B, blocks, scan.N, parts, lanes}), sizeof(T));
    tape = std::make_unique<SelectiveTape>();
    tape->dtype = kDtypeOf<T>, tape->kernels = &kernels;
    tape->T_ = scan.T_, tape->B = scan.B, tape->D = scan.D, tape->N = scan.N, tape->G = scan.G;
    tape->complex = scan.complex, tape->softplus = scan.softplus, tape->rule = scan.rule;
    tape->buffer = Buffer(bytes), tape->nbytes = bytes;
    scan.kept = tape->buffer.template as<T>();
  }
  ThreadLimit limit;
  const Index threads = threads_for(seconds(scan, lanes, 20), scan.B * blocks, limit);
  scan.work_size = (selective_work(scan, lanes, false) + 63) / 64 * 64;
  Arena arena;
  arena.claim(scan.work, product(size(scan.work_size), size(threads)));
  const Buffer buffer = arena.allocate();
  run_team(threads, [&](Member& member) { table.forward(scan, member); }, interrupt);
  if (tape) tape->flags = std::move(flags);
  return tape;
}

template <class T>
void selective_backward(const SelectiveTape& tape, SelectiveScan<T> scan, Interrupt interrupt) {
  const SelectiveTable<T>& table = selective_of<T>(*tape.kernels);
  const Index lanes = table.lanes, parts = tape.complex ? 2 : 1;
  scan.T_ = tape.T_, scan.B = tape.B, scan.D = tape.D, scan.N = tape.N, scan.G = tape.G;
  scan.complex = tape.complex, scan.softplus = tape.softplus, scan.rule = tape.rule;
  scan.flags = tape.flags ? tape.flags->bytes() : nullptr;
  scan.kept = tape.buffer.template as<T>();
  scan.parts = std::min(scan.B, kSelectiveParts);
  const Channels channels(scan.D, scan.G, lanes);
  const Index panels = scan.G * channels.panels_of_group;
  ThreadLimit limit;
  const Index threads = threads_for(seconds(scan, lanes, 50), scan.parts * panels, limit);
  scan.work_size = (selective_work(scan, lanes, true) + 63) / 64 * 64;
  Arena arena;
  arena.claim(scan.work, product(size(scan.work_size), size(threads)));
  const std::size_t of_A = numbers({scan.parts, scan.D, scan.N, parts}), of_D = numbers({scan.parts, scan.D});
  scan.dA_parts = scan.dA, scan.db_parts = scan.db.at, scan.dc_parts = scan.dc.at;
  scan.dskip_parts = scan.dskip, scan.dbias_parts = scan.dbias;
  if (scan.parts > 1) {
    arena.claim(scan.dA_parts, of_A);
    arena.claim(scan.dskip_parts, of_D);
    arena.claim(scan.dbias_parts, of_D);
    if (scan.b.constant) arena.claim(scan.db_parts, of_A);
    if (scan.c.constant) arena.claim(scan.dc_parts, of_A);
  }
  if (channels.panels_of_group > 1) {
    const std::size_t n = numbers({channels.panels_of_group, scan.T_, scan.B, scan.G, scan.N, parts});
    if (!scan.b.constant) arena.claim(scan.db_panels, n);
    if (!scan.c.constant) arena.claim(scan.dc_panels, n);
  }
  const Buffer buffer = arena.allocate();
  run_team(threads, [&](Member& member) { table.backward(scan, member); }, interrupt);
}

template std::unique_ptr<SelectiveTape> selective_forward(SelectiveScan<float>, std::shared_ptr<const StepFlags>, bool,
                                                          Interrupt);
template std::unique_ptr<SelectiveTape> selective_forward(SelectiveScan<double>, std::shared_ptr<const StepFlags>, bool,
                                                          Interrupt);
template void selective_backward(const SelectiveTape&, SelectiveScan<float>, Interrupt);
template void selective_backward(const SelectiveTape&, SelectiveScan<double>, Interrupt);

}  // namespace fusedrnn

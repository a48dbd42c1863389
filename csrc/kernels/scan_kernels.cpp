// The kernels of the cells without a recurrent matrix, for one ISA and one FUSEDRNN_ELEMENT: compiled as often as
// kernels.cpp, whose table refers to the array that this file exports.
#include "../cells/indrnn.h"
#include "../cells/lru.h"
#include "../cells/mingru.h"
#include "../cells/qrnn.h"
#include "../cells/rglru.h"
#include "../cells/sru.h"
#include "pack.h"
#include "scan_backward.h"
#include "scan_forward.h"

namespace fusedrnn::FUSEDRNN_ISA {

// The entry points of a cell, in the forms that cells/cells.h lists for it.
template <class T, class Cell, class... Forms>
constexpr CellKernels<T> kernels_of_scan() {
  CellKernels<T> k{};
  k.gates = Cell::gates, k.states = Cell::states, k.phases = 1, k.split = k.skip = Cell::skip;
  k.saved = Cell::saved, k.unit_parameters = Cell::unit_parameters, k.recurrent = false, k.sharing = Cell::sharing;
  k.panel_width = ShapeOf<Cell, 0>::columns * static_cast<int>(widest_panel(Cell::gates)) * kLanes<T>;
  k.panels = k.back_panels = panels_of<T, Cell>, k.pack = pack<T, Cell>;
  ((k.forward[Forms::id] = scan_forward<T, Cell, Forms>, k.backward[Forms::id] = scan_backward<T, Cell, Forms>), ...);
  return k;
}

#define FUSEDRNN_SCANS_OF(element) scan_cells_##element
#define FUSEDRNN_SCANS(element) FUSEDRNN_SCANS_OF(element)
#define FUSEDRNN_KERNELS(type, text, ...) kernels_of_scan<FUSEDRNN_ELEMENT, type, __VA_ARGS__>(),

extern const CellKernels<FUSEDRNN_ELEMENT> FUSEDRNN_SCANS(FUSEDRNN_ELEMENT)[];
const CellKernels<FUSEDRNN_ELEMENT> FUSEDRNN_SCANS(FUSEDRNN_ELEMENT)[] = {FUSEDRNN_SCAN_CELLS(FUSEDRNN_KERNELS)};

}  // namespace fusedrnn::FUSEDRNN_ISA

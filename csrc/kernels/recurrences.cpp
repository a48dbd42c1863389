// The kernels of linear recurrences on plain arrays for one ISA and one FUSEDRNN_ELEMENT, compiled as kernels.cpp is.
#include "array_scan.h"
#include "state_space.h"

namespace fusedrnn::FUSEDRNN_ISA {

#define FUSEDRNN_TABLE_OF(element) recurrences_##element
#define FUSEDRNN_TABLE(element) FUSEDRNN_TABLE_OF(element)

extern const RecurrenceTable<FUSEDRNN_ELEMENT> FUSEDRNN_TABLE(FUSEDRNN_ELEMENT);
const RecurrenceTable<FUSEDRNN_ELEMENT> FUSEDRNN_TABLE(FUSEDRNN_ELEMENT) = {
    kLanes<FUSEDRNN_ELEMENT>,
    scan_forward<FUSEDRNN_ELEMENT>,
    scan_backward<FUSEDRNN_ELEMENT>,
    state_space_forward<FUSEDRNN_ELEMENT>,
    state_space_backward<FUSEDRNN_ELEMENT>,
};

}  // namespace fusedrnn::FUSEDRNN_ISA

// The kernels of causal convolutions and linear attention for one ISA and one FUSEDRNN_ELEMENT, compiled as kernels.cpp
// is.
#include "attention_backward.h"
#include "convolution.h"

namespace fusedrnn::FUSEDRNN_ISA {

#define FUSEDRNN_TABLE_OF(element) attention_##element
#define FUSEDRNN_TABLE(element) FUSEDRNN_TABLE_OF(element)

extern const AttentionTable<FUSEDRNN_ELEMENT> FUSEDRNN_TABLE(FUSEDRNN_ELEMENT);
const AttentionTable<FUSEDRNN_ELEMENT> FUSEDRNN_TABLE(FUSEDRNN_ELEMENT) = {
    kLanes<FUSEDRNN_ELEMENT>,
    kTileWidth<FUSEDRNN_ELEMENT>,
    kSweepWidth<FUSEDRNN_ELEMENT>,
    convolution_forward<FUSEDRNN_ELEMENT>,
    convolution_backward<FUSEDRNN_ELEMENT>,
    attention_forward<FUSEDRNN_ELEMENT>,
    attention_backward<FUSEDRNN_ELEMENT>,
};

}  // namespace fusedrnn::FUSEDRNN_ISA

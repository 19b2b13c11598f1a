/* ep_source: what NVRTC would compile for the passes of the expert-parallel layer. */
#ifndef MOET_EP_SOURCE_H
#define MOET_EP_SOURCE_H

#include "../src/family.h"

/* false: nothing for this compute capability. Only with CUDA in the build. */
bool moet_ep_source(int32_t cc_major, int32_t cc_minor, moet_source *source);

#endif

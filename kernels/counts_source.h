/* counts_source: what NVRTC would compile for the kernel of src/counts.h. */
#ifndef MOET_COUNTS_SOURCE_H
#define MOET_COUNTS_SOURCE_H

#include "../src/family.h"

/* false: nothing for this compute capability. Only with CUDA in the build. */
bool moet_counts_source(int32_t cc_major, int32_t cc_minor, moet_source *source);

#endif

/* hold_sms: SMs of a GPU that somebody else has for a while. */
#ifndef MOET_TEST_HOLD_SMS_H
#define MOET_TEST_HOLD_SMS_H

#include "test.h"

/* Begins, on the stream, to hold `sms` SMs for so long: a block each, with so much shared memory that no kernel of ours
 * finds room beside it. Returns when they are held. Only for CUDA devices. */
void hold_sms(moet_device *device, int32_t sms, int64_t time_ns, void *stream);

#endif

/* message_trial: how a trial's kernels and algorithms go over the wire. */
#ifndef MOET_MESSAGE_TRIAL_H
#define MOET_MESSAGE_TRIAL_H

#include "../bench/bench.h"
#include "message.h"

void moet_message_put_cubins(moet_message *message, const moet_trial *trial);
void moet_message_put_algorithms(moet_message *message, const moet_trial *trial);

/* Into a trial, in place of what it has; what cannot be fails the message. NO_MEMORY. */
moet_status moet_message_take_cubins(moet_message *message, moet_trial *trial);
moet_status moet_message_take_algorithms(moet_message *message, moet_trial *trial);

#endif

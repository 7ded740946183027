/* The log-mel front end in portable C99: 16-bit samples at 16 kHz to the network's input. Made to be read and compared with; it is correct
 * and small, not fast. Replace dft() in front_end.c by the FFT of your platform (CMSIS-DSP: arm_rfft_fast_f32). */
#ifndef EARSHOT_FRONT_END_H
#define EARSHOT_FRONT_END_H

#include <stddef.h>
#include <stdint.h>

#include "front_end_constants.h"

/* Samples [EARSHOT_N_FFT] to the features [EARSHOT_N_MELS] of one frame. The first frame begins with the first sample, each further one
 * EARSHOT_HOP_LENGTH samples later. Not reentrant: it works in static memory, 12 bytes for each of EARSHOT_N_FFT. */
void earshot_features(const int16_t *samples, float *features);

/* The features [EARSHOT_N_MELS] of silence, which fill a window after the end of the speech. */
void earshot_silence(float *features);

/* Features [count] to what the network takes. */
void earshot_quantize(const float *features, earshot_input_t *input, size_t count);

#endif

/* Compares the front end with golden vectors, on the device or on a little-endian computer:
 *
 *     gcc -std=c99 -O2 check_front_end.c front_end.c -lm -o check_front_end
 *     ./check_front_end golden_audio.bin golden_features.bin golden_input.bin
 *
 * The last file may be left out. The exit status is 0 where they agree. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "front_end.h"

/* Of a normalised feature. Samples are the very integers on both sides: what differs is float32 rounding in the transform and the logarithm,
 * where a quiet bin lies beside loud ones. A step of 8-bit input is tens of times as large. */
#define TOLERANCE 1e-3f

static void *read_file(const char *path, size_t item, size_t *count)
{
    FILE *file = fopen(path, "rb");
    long bytes = -1;
    if (file && fseek(file, 0, SEEK_END) == 0)
        bytes = ftell(file);
    void *content = bytes > 0 ? malloc((size_t)bytes) : NULL;
    if (content) {
        rewind(file);
        *count = fread(content, 1, (size_t)bytes, file) / item;
    }
    if (!content || *count * item != (size_t)bytes) {
        fprintf(stderr, "%s: cannot be read\n", path);
        exit(2);
    }
    fclose(file);
    return content;
}

int main(int argc, char **argv)
{
    if (argc != 3 && argc != 4) {
        fprintf(stderr, "usage: %s AUDIO.bin FEATURES.bin [INPUT.bin]\n", argv[0]);
        return 2;
    }
    size_t samples, values, inputs = 0;
    const int16_t *audio = read_file(argv[1], sizeof *audio, &samples);
    const float *golden = read_file(argv[2], sizeof *golden, &values);
    const earshot_input_t *wanted = argc == 4 ? read_file(argv[3], sizeof *wanted, &inputs) : NULL;
    if (values % EARSHOT_N_MELS || (wanted && inputs != values)) {
        fprintf(stderr, "%s: not of %d mel bins, or of another window than the input\n", argv[2], EARSHOT_N_MELS);
        return 2;
    }
    float largest = 0.0f;
    long differing = 0, steps = 0;
    for (size_t at = 0, frame = 0; at < values; at += EARSHOT_N_MELS, ++frame) {
        float features[EARSHOT_N_MELS];
        earshot_input_t input[EARSHOT_N_MELS];
        const size_t first = frame * EARSHOT_HOP_LENGTH;
        if (first + EARSHOT_N_FFT <= samples)
            earshot_features(audio + first, features);
        else
            earshot_silence(features);
        earshot_quantize(features, input, EARSHOT_N_MELS);
        for (size_t mel = 0; mel < EARSHOT_N_MELS; ++mel) {
            const float error = fabsf(features[mel] - golden[at + mel]);
            if (error > largest || error != error) /* not-a-number stays */
                largest = error;
            if (wanted && input[mel] != wanted[at + mel]) {
                const long step = labs((long)input[mel] - (long)wanted[at + mel]);
                ++differing;
                steps = step > steps ? step : steps;
            }
        }
    }
    printf("features: %lu values, largest difference %.3g, allowed %.3g\n", (unsigned long)values, (double)largest, (double)TOLERANCE);
    if (wanted)
        printf("input: %ld of %lu integers differ, by %ld at most, allowed 1\n", differing, (unsigned long)inputs, steps);
    return largest <= TOLERANCE && steps <= 1 ? 0 : 1;
}

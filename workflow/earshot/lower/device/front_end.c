#include "front_end.h"

#include <math.h>

#include "front_end_tables.h"

static float frame[EARSHOT_N_FFT], real[EARSHOT_N_FFT], imaginary[EARSHOT_N_FFT];

/* Discrete Fourier transform of x[0], x[stride] ... (n real values, n * stride = EARSHOT_N_FFT): halves are transformed and put together
 * (Cooley and Tukey, 1965) down to an odd length, which is summed up as the transform is defined. So any EARSHOT_N_FFT will do. */
static void dft(const float *x, int stride, float *re, float *im, int n)
{
    if (n % 2) {
        for (int k = 0; k < n; ++k) {
            re[k] = im[k] = 0.0f;
            for (int i = 0, turn = 0; i < n; ++i, turn = (turn + k * stride) % EARSHOT_N_FFT) {
                re[k] += x[i * stride] * earshot_cosines[turn];
                im[k] -= x[i * stride] * earshot_sines[turn];
            }
        }
        return;
    }
    const int half = n / 2;
    dft(x, 2 * stride, re, im, half);
    dft(x + stride, 2 * stride, re + half, im + half, half);
    for (int k = 0; k < half; ++k) {
        const float cosine = earshot_cosines[k * stride], sine = earshot_sines[k * stride];
        const float odd_re = re[half + k] * cosine + im[half + k] * sine;
        const float odd_im = im[half + k] * cosine - re[half + k] * sine;
        re[half + k] = re[k] - odd_re;
        im[half + k] = im[k] - odd_im;
        re[k] += odd_re;
        im[k] += odd_im;
    }
}

static float feature(float energy, int mel)
{
#if EARSHOT_LOG_FLOOR_IS_ADDED
    const float floored = energy + EARSHOT_LOG_FLOOR;
#else
    const float floored = energy > EARSHOT_LOG_FLOOR ? energy : EARSHOT_LOG_FLOOR;
#endif
    return (logf(floored) - earshot_mean[mel]) / earshot_std[mel];
}

void earshot_features(const int16_t *samples, float *features)
{
    /* The window lies in the middle; what is left and right of it stays 0. */
    for (int i = 0; i < EARSHOT_WIN_LENGTH; ++i)
        frame[EARSHOT_WIN_OFFSET + i] = (float)samples[EARSHOT_WIN_OFFSET + i] / 32768.0f * earshot_window[i];
    dft(frame, 1, real, imaginary, EARSHOT_N_FFT);
    const float *weight = earshot_mel_weights;
    for (int mel = 0; mel < EARSHOT_N_MELS; ++mel) {
        float energy = 0.0f;
        const int first = earshot_mel_first_bin[mel], end = first + earshot_mel_bins[mel];
        for (int bin = first; bin < end; ++bin)
            energy += *weight++ * (real[bin] * real[bin] + imaginary[bin] * imaginary[bin]);
        features[mel] = feature(energy, mel);
    }
}

void earshot_silence(float *features)
{
    for (int mel = 0; mel < EARSHOT_N_MELS; ++mel)
        features[mel] = feature(0.0f, mel);
}

void earshot_quantize(const float *features, earshot_input_t *input, size_t count)
{
    for (size_t i = 0; i < count; ++i) {
        /* rintf: half to even. Compared as floats, since what lies outside may not fit an int. */
        const float q = rintf(features[i] * EARSHOT_INPUT_INVERSE_SCALE) + EARSHOT_INPUT_ZERO_POINT;
        input[i] = (earshot_input_t)(q < EARSHOT_INPUT_MIN ? EARSHOT_INPUT_MIN : q > EARSHOT_INPUT_MAX ? EARSHOT_INPUT_MAX : q);
    }
}

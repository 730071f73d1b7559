// The online softmax of levels 3 and 4, of rows in registers by the mma layout (mma.h).
#pragma once

#include "tensor/cuda/attention/mma.h"

namespace uipe::tensor::cuda::attend {

/// The softmax of a lane's rows so far: two for each m, g and g + 8. `sum` is over the lane's own columns.
template <int M>
struct Softmax {
    float most[M][2], sum[M][2];

    __device__ Softmax() {
        for (int m = 0; m < M; ++m)
            for (int half = 0; half < 2; ++half) {
                most[m][half] = -infinity;
                sum[m][half] = 0.0F;
            }
    }
};

/// Scores (in units of 1/log2_scale) become probabilities up to the row's factor. What was summed under the last
/// maximum is to be scaled by `factor`.
template <int M, int N>
__device__ inline void soften(float (&s)[M][N][4], Softmax<M>& rows, float (&factor)[M][2], float log2_scale) {
    DEV_UNROLL
    for (int m = 0; m < M; ++m) {
        DEV_UNROLL
        for (int half = 0; half < 2; ++half) {
            float most = rows.most[m][half];
            DEV_UNROLL
            for (int n = 0; n < N; ++n) most = dev::fmax(most, dev::fmax(s[m][n][2 * half], s[m][n][2 * half + 1]));
            most = dev::fmax(most, dev::shuffle_xor(most, 1));
            most = dev::fmax(most, dev::shuffle_xor(most, 2));
            const float shift = -most * log2_scale;  // finite: the first tile shows each row its first key
            factor[m][half] = dev::exp2(dev::fma(rows.most[m][half], log2_scale, shift));
            rows.most[m][half] = most;
            float sum = 0.0F;
            DEV_UNROLL
            for (int n = 0; n < N; ++n) {
                DEV_UNROLL
                for (int i = 2 * half; i < 2 * half + 2; ++i) {
                    s[m][n][i] = dev::exp2(dev::fma(s[m][n][i], log2_scale, shift));
                    sum += s[m][n][i];
                }
            }
            rows.sum[m][half] = rows.sum[m][half] * factor[m][half] + sum;
        }
    }
}

/// Rows of the output times their factors.
template <int M, int N>
__device__ inline void rescale(float (&out)[M][N][4], const float (&factor)[M][2]) {
    DEV_UNROLL
    for (int m = 0; m < M; ++m) {
        DEV_UNROLL
        for (int n = 0; n < N; ++n) {
            DEV_UNROLL
            for (int i = 0; i < 4; ++i) out[m][n][i] *= factor[m][i / 2];
        }
    }
}

/// Divides by the row sums, and writes the log-sum-exp of the first `valid` rows.
template <int M, int N>
__device__ inline void finish(const Softmax<M>& rows, float (&out)[M][N][4], float* lse, int step, int valid,
                              float scale) {
    float factor[M][2];
    DEV_UNROLL
    for (int m = 0; m < M; ++m) {
        DEV_UNROLL
        for (int half = 0; half < 2; ++half) {
            float sum = rows.sum[m][half];
            sum += dev::shuffle_xor(sum, 1);
            sum += dev::shuffle_xor(sum, 2);
            const int row = 16 * m + 8 * half + dev::lane() / 4;
            if (dev::lane() % 4 == 0 && row < valid)
                lse[static_cast<std::int64_t>(row) * step] = rows.most[m][half] * scale + dev::log(sum);
            factor[m][half] = 1.0F / sum;
        }
    }
    rescale(out, factor);
}

}  // namespace uipe::tensor::cuda::attend

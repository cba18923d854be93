// Constants of the warp by landmarks that its CPU and CUDA kernels share. Formula:
// kernels/talkinghead_kernels/warp_by_landmarks.py.
#pragma once

#ifdef __CUDACC__
#define TALKINGHEAD_TABLE __device__ constexpr  // device code may index no other
#else
#define TALKINGHEAD_TABLE constexpr
#endif

namespace talkinghead {

constexpr float kSoftening = 1e-4f;  // squared fractions of the picture
constexpr float kRidge = 1e-4f;
constexpr float kBorderStrength = 16.0f;
constexpr int kBorderPoints = 16;
TALKINGHEAD_TABLE float kBorder[kBorderPoints][2] = {
    {0.0f, 0.0f},  {0.25f, 0.0f}, {0.5f, 0.0f},  {0.75f, 0.0f}, {1.0f, 0.0f},  {0.0f, 0.25f},
    {1.0f, 0.25f}, {0.0f, 0.5f},  {1.0f, 0.5f},  {0.0f, 0.75f}, {1.0f, 0.75f}, {0.0f, 1.0f},
    {0.25f, 1.0f}, {0.5f, 1.0f},  {0.75f, 1.0f}, {1.0f, 1.0f}};

// Weights of the four taps of a bicubic convolution (a = -0.75) at fraction t: polynomials, one
// column a tap, cubic coefficient first.
TALKINGHEAD_TABLE float kCubic[4][4] = {{-0.75f, 1.25f, -1.25f, 0.75f},
                                        {1.5f, -2.25f, 1.5f, -0.75f},
                                        {-0.75f, 0.0f, 0.75f, 0.0f},
                                        {0.0f, 1.0f, 0.0f, 0.0f}};

// At this distance in pixels from an image, or farther, all taps are the pixel at its border.
constexpr float kBeyond = 4.0f;

}  // namespace talkinghead

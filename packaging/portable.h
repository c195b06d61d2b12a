// Every source file of llama.cpp in the wheel is compiled with this in front.
//
// The threads of a pass wait for one another in a loop around `_mm_pause` (ggml's OpenMP, which waits better, would
// need a library that the compiler of the wheels lacks). If another process has their core, the loop uses up whole
// time slices of the one that they wait for. So each 200th pause lets others run. Passes of one and of four tokens in
// two processes of two threads each on two cores, per second (SmolLM2-135M Q8_0, Xeon model 207, December 2026):
// never 4.6 and 3.8; each 2,000th 18 and 17; each 200th 27 and 26; GCC's OpenMP 5.2 and 5.1. Alone there is no
// difference.
#ifndef __cplusplus
#include <immintrin.h>
#include <sched.h>

static _Thread_local unsigned airdraft_num_pauses;

static inline void airdraft_pause(void) {
    if (++airdraft_num_pauses % 200) {
        _mm_pause();
    } else {
        sched_yield();
    }
}

#define _mm_pause airdraft_pause
#endif

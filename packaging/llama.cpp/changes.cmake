# What airdraft changes of llama.cpp where it is compiled. CMake runs this after ggml's own project():
#
#   cmake -DCMAKE_PROJECT_ggml_INCLUDE=.../changes.cmake
#
# Speed alone: every sum is as it was, in its order, so all bits are the same. Without it everything
# works, and a CPU is slower.

# Reads a file below ggml's sources into `text`.
macro(airdraft_read name)
    set(path "${CMAKE_CURRENT_SOURCE_DIR}/src/ggml-cpu/${name}")
    file(READ "${path}" text)
endmacro()

# In `text`, between the first `begin` and the next `end`, replaces the one `old` by `new`.
macro(airdraft_replace begin end old new)
    string(FIND "${text}" "${begin}" from)
    if(from EQUAL -1)
        set(from 0)
        set(rest "")
    else()
        string(SUBSTRING "${text}" ${from} -1 rest)
    endif()
    string(FIND "${rest}" "${end}" length)
    string(SUBSTRING "${text}" 0 ${from} before)
    string(SUBSTRING "${rest}" 0 ${length} body)
    string(FIND "${body}" "${old}" first)
    string(FIND "${body}" "${old}" last REVERSE)
    if(length EQUAL -1 OR first EQUAL -1 OR NOT first EQUAL last)
        message(FATAL_ERROR "another llama.cpp than packaging/llama.cpp/changes.cmake is for: in "
            "${path} there is not one `${old}` after `${begin}`. Compile without it, or mend it")
    endif()
    string(REPLACE "${old}" "${new}" changed "${body}")
    string(SUBSTRING "${rest}" ${length} -1 after)
    set(text "${before}${changed}${after}")
endmacro()

# Puts the header of that name before `text`.
macro(airdraft_include name)
    file(READ "${CMAKE_CURRENT_LIST_DIR}/${name}" header)
    set(text "${header}\n${text}")
endmacro()

# `text` is done: written with the others, or none is.
macro(airdraft_keep name)
    list(APPEND kept "${name}")
    set(text_of_${name} "${text}")
    set(path_of_${name} "${path}")
endmacro()

# A source may be configured twice.
airdraft_read(ops.cpp)
if(NOT text MATCHES "airdraft_changes")
    set(kept "")

    # Attention for many sequences in one cache: attention.h says why.
    file(READ "${CMAKE_CURRENT_LIST_DIR}/attention_rows.inc" rows)
    airdraft_replace("flash_attn_ext_f16_one_chunk(" "flash_attn_ext_tiled("
        "for (int ir = ir0; ir < ir1; ++ir) {"
        "for (int at = ir0; at < ir1; ++at) {
        const int ir = airdraft_row(at, neq1, neq2);
${rows}")
    airdraft_replace("flash_attn_ext_f16_one_chunk(" "flash_attn_ext_tiled("
        "for (int64_t ic = ic_start; ic < ic_end; ++ic) {"
        "for (int64_t ic = ic_start; ic < ic_end; ++ic) {
            if (mp && (ic = airdraft_next_seen(mp, ic, ic_end)) == ic_end) {
                break;
            }")
    airdraft_include(attention.h)
    airdraft_keep(attention)

    # Products of Q8_0: products.h.
    airdraft_read(llamafile/sgemm.cpp)
    file(READ "${CMAKE_CURRENT_LIST_DIR}/products.inc" products)
    airdraft_replace("bool llamafile_sgemm(" "switch (Atype)"
        "    // only enable sgemm for prompt processing"
        "${products}    // only enable sgemm for prompt processing")
    airdraft_include(products.h)
    airdraft_keep(products)

    # Products of one token with weights of other types: on x86 memory has more to give than the
    # processor asks for by itself.
    airdraft_read(ggml-cpu.c)
    set(row "vec_dot(ne00, &tmp[ir0 - iir0],")
    airdraft_replace("ggml_compute_forward_mul_mat_one_chunk(" "void ggml_compute_forward_mul_mat(" "${row}"
        "
#if defined(__x86_64__)
                    for (size_t at = 0; at < num_rows_per_vec_dot*nb01 && ir1 == iir1; at += 64) {
                        __builtin_prefetch(src0_row + ir0*nb01 + 8192 + at);
                    }
#endif
                    ${row}")
    airdraft_keep(rows)

    # Products of Q4_0 where ggml has repacked it: repacked.h.
    airdraft_read(repack.cpp)
    file(READ "${CMAKE_CURRENT_LIST_DIR}/repacked.inc" products)
    airdraft_replace("void forward_mul_mat_one_chunk(" "void forward_mul_mat("
        "        // If there are more than three rows in src1, use gemm"
        "${products}        // If there are more than three rows in src1, use gemm")
    airdraft_include(repacked.h)
    airdraft_keep(repacked)

    # What else is repacked as it is, and experts: as above.
    airdraft_read(arch/x86/repack.cpp)
    set(load "// Load 8 blocks of 32 interleaved as 8 bytes (B0 - B7)")
    airdraft_replace("static void gemv_q4_b32_8x8_q8_0_lut_avx(" "// 4-bit -> 8-bit" "${load}"
        "for (size_t at = 0; at < sizeof(block_tx8); at += 64) {
                    _mm_prefetch((const char *) (b_ptr + b) + 8192 + at, _MM_HINT_T0);
                }

                ${load}")
    airdraft_keep(repacked_rows)

    foreach(name IN LISTS kept)
        file(WRITE "${path_of_${name}}" "${text_of_${name}}")
    endforeach()
endif()

# What llama.cpp's own commands share is not needed by a library: minutes less to compile.
set(LLAMA_BUILD_COMMON OFF CACHE BOOL "" FORCE)

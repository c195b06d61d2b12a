# What airdraft changes of llama.cpp where it is compiled. CMake runs this after ggml's own project():
#
#   cmake -DCMAKE_PROJECT_ggml_INCLUDE=.../changes.cmake
#
# Speed alone: every sum is as it was, in its order, so all bits are the same. Without it everything
# works, and several streams on a CPU are slower.

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

# A source may be configured twice.
airdraft_read(ops.cpp)
if(NOT text MATCHES "airdraft_changes")
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
    set(attention "${text}")
    set(attention_path "${path}")

    # Products of Q8_0: products.h.
    airdraft_read(llamafile/sgemm.cpp)
    file(READ "${CMAKE_CURRENT_LIST_DIR}/products.inc" products)
    airdraft_replace("bool llamafile_sgemm(" "switch (Atype)"
        "    // only enable sgemm for prompt processing"
        "${products}    // only enable sgemm for prompt processing")
    airdraft_include(products.h)
    # Both or none.
    file(WRITE "${attention_path}" "${attention}")
    file(WRITE "${path}" "${text}")
endif()

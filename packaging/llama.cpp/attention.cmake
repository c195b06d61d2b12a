# Makes attention on a CPU cheaper for many sequences in one cache (attention.h). CMake runs this
# after ggml's own project():
#
#   cmake -DCMAKE_PROJECT_ggml_INCLUDE=.../attention.cmake
#
# Without it everything works, and many long streams are slower.

set(airdraft_file "${CMAKE_CURRENT_SOURCE_DIR}/src/ggml-cpu/ops.cpp")
file(READ "${airdraft_file}" airdraft_source)
string(FIND "${airdraft_source}" "airdraft_next_seen" airdraft_done)

# In the text of `body`, which is one function's, puts `statement` behind the one place with `loop`.
function(airdraft_begin body loop statement)
    string(FIND "${${body}}" "${loop}" first)
    string(FIND "${${body}}" "${loop}" last REVERSE)
    if(first EQUAL -1 OR NOT first EQUAL last)
        message(FATAL_ERROR "another llama.cpp than packaging/llama.cpp/attention.cmake is for: "
            "there is not one `${loop}`. Compile without it, or mend it")
    endif()
    string(REPLACE "${loop}" "${statement}" changed "${${body}}")
    set(${body} "${changed}" PARENT_SCOPE)
endfunction()

if(airdraft_done EQUAL -1)
    string(FIND "${airdraft_source}" "flash_attn_ext_f16_one_chunk(" airdraft_from)
    string(FIND "${airdraft_source}" "flash_attn_ext_tiled(" airdraft_to)
    if(airdraft_from EQUAL -1 OR airdraft_to LESS airdraft_from)
        message(FATAL_ERROR "another llama.cpp than packaging/llama.cpp/attention.cmake is for: "
            "attention is not where it was. Compile without it, or mend it")
    endif()
    math(EXPR airdraft_length "${airdraft_to} - ${airdraft_from}")
    string(SUBSTRING "${airdraft_source}" 0 ${airdraft_from} airdraft_before)
    string(SUBSTRING "${airdraft_source}" ${airdraft_from} ${airdraft_length} airdraft_body)
    string(SUBSTRING "${airdraft_source}" ${airdraft_to} -1 airdraft_after)
    airdraft_begin(airdraft_body "for (int ir = ir0; ir < ir1; ++ir) {"
        "for (int at = ir0; at < ir1; ++at) {
            const int ir = airdraft_row(at, neq1, neq2, rk2);")
    airdraft_begin(airdraft_body "for (int64_t ic = ic_start; ic < ic_end; ++ic) {"
        "for (int64_t ic = ic_start; ic < ic_end; ++ic) {
            if (mp && (ic = airdraft_next_seen(mp, ic, ic_end)) == ic_end) {
                break;
            }")
    file(READ "${CMAKE_CURRENT_LIST_DIR}/attention.h" airdraft_header)
    file(WRITE "${airdraft_file}"
        "${airdraft_header}\n${airdraft_before}${airdraft_body}${airdraft_after}")
endif()

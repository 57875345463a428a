# Applies this folder's patches to copies of llama.cpp's sources while CMake configures it.
#
# CMAKE_PROJECT_INCLUDE names this file (.cargo/config.toml), so CMake reads it at every project(). The sources in
# the registry stay untouched: a patched copy lies below the build folder and takes the place of the original in
# its target. A patch that does not apply stops the build.

if(NOT PROJECT_NAME STREQUAL "llama.cpp")
    return()
endif()

set(PUNA_PATCHES ${CMAKE_CURRENT_LIST_DIR})
find_package(Git REQUIRED)

# Writes the patched copies; PUNA_PATCHED gets the paths of the sources that they replace.
function(puna_write_copies)
    set(copies ${CMAKE_BINARY_DIR}/patched)
    file(REMOVE_RECURSE ${copies})
    set(replaced)
    file(GLOB patches ${PUNA_PATCHES}/*.patch)
    foreach(patch ${patches})
        file(STRINGS ${patch} lines REGEX "^[+][+][+] b/")
        foreach(line ${lines})
            string(REGEX REPLACE "^[+][+][+] b/([^ \t]*).*" "\\1" path "${line}")
            if(NOT EXISTS ${copies}/${path})
                get_filename_component(folder ${copies}/${path} DIRECTORY)
                file(COPY ${CMAKE_SOURCE_DIR}/${path} DESTINATION ${folder})
                list(APPEND replaced ${path})
            endif()
        endforeach()
        # The ceiling keeps git from finding the repository that the build folder may lie in.
        execute_process(
            COMMAND ${CMAKE_COMMAND} -E env GIT_CEILING_DIRECTORIES=${CMAKE_BINARY_DIR}
                ${GIT_EXECUTABLE} apply --whitespace=nowarn ${patch}
            WORKING_DIRECTORY ${copies}
            RESULT_VARIABLE failed)
        if(failed)
            message(FATAL_ERROR "${patch} does not apply to this version of llama.cpp")
        endif()
    endforeach()
    set(PUNA_PATCHED ${replaced} PARENT_SCOPE)
endfunction()

# Exchanges the sources of all targets in this folder and below.
function(puna_exchange folder)
    get_property(targets DIRECTORY ${folder} PROPERTY BUILDSYSTEM_TARGETS)
    foreach(target ${targets})
        get_target_property(sources ${target} SOURCES)
        get_target_property(base ${target} SOURCE_DIR)
        if(NOT sources)
            continue()
        endif()
        set(changed)
        foreach(source ${sources})
            get_filename_component(absolute ${source} ABSOLUTE BASE_DIR ${base})
            foreach(path ${PUNA_PATCHED})
                if(absolute STREQUAL "${CMAKE_SOURCE_DIR}/${path}")
                    set(source ${CMAKE_BINARY_DIR}/patched/${path})
                    get_filename_component(beside ${absolute} DIRECTORY)
                    # The copy includes headers that lie beside the original, and this folder's; it stays out of
                    # unity builds, as the original does.
                    target_include_directories(${target} PRIVATE ${beside} ${PUNA_PATCHES})
                    set_source_files_properties(${source} TARGET_DIRECTORY ${target}
                        PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
                    get_source_file_property(options ${absolute} TARGET_DIRECTORY ${target} COMPILE_OPTIONS)
                    if(options)
                        set_source_files_properties(${source} TARGET_DIRECTORY ${target}
                            PROPERTIES COMPILE_OPTIONS "${options}")
                    endif()
                endif()
            endforeach()
            list(APPEND changed ${source})
        endforeach()
        set_target_properties(${target} PROPERTIES SOURCES "${changed}")

        # ggml's loops over 16-bit floats take 128 values at a time where the compiler has AVX512-FP16, and the
        # rest one by one: all of a head of 64. Flash attention then runs at a third of its speed (an answer
        # behind 4096 tokens of SmolLM2 on a Xeon: 11 tokens/s, without the macro 35).
        if(target MATCHES "^ggml" AND CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
            target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-U__AVX512FP16__>)
        endif()
    endforeach()
    get_property(below DIRECTORY ${folder} PROPERTY SUBDIRECTORIES)
    foreach(next ${below})
        puna_exchange(${next})
    endforeach()
endfunction()

function(puna_apply)
    puna_write_copies()
    puna_exchange(${CMAKE_SOURCE_DIR})
endfunction()

cmake_language(DEFER DIRECTORY ${CMAKE_SOURCE_DIR} CALL puna_apply)

// FUNCTION(name) is the name with the instruction set that this compilation is for.
#pragma once
#ifndef VARIANT
#define VARIANT generic
#endif
#define PASTE(a, b) a##_##b
#define NAMED(a, b) PASTE(a, b)
#define FUNCTION(name) __attribute__((visibility("hidden"))) NAMED(name, VARIANT)

// Common includes of csrc/: only torch's stable ABI, so that one build runs with every torch >=
// 2.10.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>

#include <cstdint>
#include <optional>
#include <vector>

namespace talkinghead {

using torch::stable::Tensor;
using ScalarType = torch::headeronly::ScalarType;
using BFloat16 = c10::BFloat16;
using Half = c10::Half;

}  // namespace talkinghead

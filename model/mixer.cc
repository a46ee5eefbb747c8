#include "model/mixer.h"

#include "kernels/status.h"

namespace engram {

MatMulOptions Linear::Options(Activation activation, bool accumulate) const {
  MatMulOptions options;
  options.bias = bias->floats();
  options.activation = activation;
  options.accumulate = accumulate;
  return options;
}

absl::StatusOr<Linear> LoadLinear(const std::string& name, int64_t outputs,
                                  int64_t inputs, WeightLoader* loader) {
  Linear linear;
  ENGRAM_ASSIGN_OR_RETURN(linear.weight,
                          loader->Matrix(name + ".weight", outputs, inputs));
  ENGRAM_ASSIGN_OR_RETURN(linear.bias,
                          loader->Vector(name + ".bias", {outputs}));
  return linear;
}

}  // namespace engram

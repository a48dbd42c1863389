// Weights from NumPy arrays, by the roles of a cell's parameters.
#include "arrays.h"
#include "gil.h"
#include "parameters.h"

namespace fusedrnn::python {

using namespace pybind11::literals;

static Activation activation_of(const py::handle& given) {
  const auto [name, alpha, beta] = py::cast<std::tuple<std::string, double, double>>(given);
  return {activation_named(name), alpha, beta};
}

static CellOptions options_of(const py::object& given) {
  CellOptions options;
  if (given.is_none()) return options;
  const auto fields = py::cast<py::tuple>(given);
  require(fields.size() == 8,
          "Weights: options are gate, state, output, clip, cell_clip, peephole, candidate and highway_bias");
  options.gate = activation_of(fields[0]);
  options.state = activation_of(fields[1]);
  options.output = activation_of(fields[2]);
  options.clip = py::cast<double>(fields[3]), options.cell_clip = py::cast<double>(fields[4]);
  require(options.clip > 0 && options.cell_clip > 0, "Weights: a clip is not positive");
  if (!fields[5].is_none()) {
    const auto peephole = py::cast<std::string>(fields[5]);
    require(peephole == "ifo" || peephole == "o_prev", "Weights: the peephole is ifo or o_prev");
    options.peephole = peephole == "ifo" ? kPeepholeIFO : kPeepholeOPrev;
  }
  if (!fields[6].is_none()) {
    const auto candidate = py::cast<std::string>(fields[6]);
    require(candidate == "identity" || candidate == "tanh", "Weights: the candidate is identity or tanh");
    options.candidate = candidate == "identity" ? kIdentity : kCandidateTanh;
  }
  options.highway_bias = py::cast<double>(fields[7]);
  return options;
}

template <class T>
static std::shared_ptr<WeightsBase> make_weights(const Kernels& kernels, CellId cell, const Parameters& given,
                                                 bool training, const CellOptions& options, const py::tuple& zoneout,
                                                 const py::object& norm_eps) {
  const auto W_ih = py::cast<py::array>(given.W_ih);
  require(W_ih.ndim() == 2, "Weights: W_ih has two axes");
  const CellKernels<T>& kernel = table_of<T>(kernels).cell(cell);
  const Index I = W_ih.shape(1), rows = W_ih.shape(0), H = rows / kernel.gates;
  require(H >= 1 && I >= 1 && rows == H * kernel.gates, "Weights: the rows of W_ih are gates * hidden_size");
  Structure structure;
  if (!given.W_hr.is_none()) {
    const auto projection = py::cast<py::array>(given.W_hr);
    require(projection.ndim() == 2 && projection.shape(0) >= 1, "Weights: W_hr has two axes");
    structure.R = projection.shape(0);
  }
  const Index R = structure.R ? structure.R : H;
  require(kernel.recurrent || (given.W_hh.is_none() && given.b_hh.is_none() && !structure.R),
          "Weights: this cell has no W_hh, b_hh or projection");
  RawWeights<T> raw{
      matrix<T>(W_ih, rows, I, nullptr, false, "W_ih"),
      kernel.recurrent ? matrix<T>(py::cast<py::array>(given.W_hh), rows, R, nullptr, false, "W_hh") : nullptr,
      vector<T>(given.b_ih, rows, false, "b_ih"), vector<T>(given.b_hh, rows, false, "b_hh")};
  raw.units = unit_rows<T>(given.units, kernel.unit_parameters, H / kernel.sharing, &raw.unit_rows, false, "units");
  if (structure.R) raw.W_hr = matrix<T>(py::cast<py::array>(given.W_hr), R, H, nullptr, false, "W_hr");
  if (!norm_eps.is_none()) {
    require(kernel.pack_norm, "Weights: this cell has no layer normalisation");
    raw.norm = {vector<T>(given.gain_ih, rows, false, "gain_ih"),
                vector<T>(given.gain_hh, rows, false, "gain_hh"),
                vector<T>(given.gain_c, H, false, "gain_c"),
                vector<T>(given.bias_c, H, false, "bias_c"),
                raw.b_ih,
                raw.b_hh,
                py::cast<double>(norm_eps)};
    require(raw.norm.gain_ih && raw.norm.gain_hh, "Weights: layer normalisation has gains for both products");
    require(kernel.states == 1 || (raw.norm.gain_c && raw.norm.bias_c),
            "Weights: layer normalisation has a gain and a bias of c");
    raw.b_ih = raw.b_hh = nullptr;  // pack_norm packs them: they are added after the normalisation
    structure.normed = true;
  }
  require(zoneout.size() == kMaxStates, "Weights: zoneout is a pair");
  for (std::size_t s = 0; s < kMaxStates; ++s) structure.zoneout[s] = py::cast<double>(zoneout[s]);
  return without_gil([&](Interrupt interrupt) -> std::shared_ptr<WeightsBase> {
    return std::make_shared<Weights<T>>(kernels, cell, options, I, H, raw, training, structure, interrupt);
  });
}

static std::shared_ptr<WeightsBase> make_weights(const std::string& cell, const Parameters& given, bool training,
                                                 const py::object& options, const py::tuple& zoneout,
                                                 const py::object& norm_eps, const WeightsBase* like) {
  const Kernels& kernels = like ? *like->kernels : current_kernels();
  return with_dtype(dtype_of(py::cast<py::array>(given.W_ih)), [&](auto zero) {
    return make_weights<decltype(zero)>(kernels, cell_named(cell), given, training, options_of(options), zoneout,
                                        norm_eps);
  });
}

void add_weights(py::module_& m) {
  py::class_<WeightsBase, std::shared_ptr<WeightsBase>>(m, "Weights", py::is_final())
      .def(py::init([](const std::string& cell, const py::dict& parameters, bool training, const py::object& options,
                       const py::tuple& zoneout, const py::object& norm_eps, const WeightsBase* like) {
             return make_weights(cell, Parameters::of(parameters), training, options, zoneout, norm_eps, like);
           }),
           "cell"_a, "parameters"_a, "training"_a, "options"_a = py::none(), "zoneout"_a = py::make_tuple(0.0, 0.0),
           "norm_eps"_a = py::none(), "like"_a = py::none())
      .def_property_readonly("nbytes", [](const WeightsBase& w) { return w.nbytes; })
      .def_property_readonly("isa", [](const WeightsBase& w) { return w.kernels->name; })
      .def_property_readonly("cell", [](const WeightsBase& w) { return name_of(w.cell); })
      .def_property_readonly("dtype", [](const WeightsBase& w) { return numpy_dtype(w.dtype); })
      .def_property_readonly("input_size", [](const WeightsBase& w) { return w.I; })
      .def_property_readonly("hidden_size", [](const WeightsBase& w) { return w.H; })
      .def_property_readonly("output_size", [](const WeightsBase& w) { return w.R; });

  // The fastest way to make weights: the parameters that most cells have, in torch's order.
  m.def(
      "usual_weights",
      [](const std::string& cell, const py::object& W_ih, const py::object& W_hh, const py::object& b_ih,
         const py::object& b_hh, bool training, const WeightsBase* like) {
        Parameters given;
        given.W_ih = W_ih, given.W_hh = W_hh, given.b_ih = b_ih, given.b_hh = b_hh;
        static const py::tuple& never = *new py::tuple(py::make_tuple(0.0, 0.0));
        return make_weights(cell, given, training, py::none(), never, py::none(), like);
      },
      "cell"_a, "W_ih"_a, "W_hh"_a, "b_ih"_a, "b_hh"_a, "training"_a, "like"_a = py::none());
}

}  // namespace fusedrnn::python

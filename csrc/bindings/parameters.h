// A cell's parameters, or their gradients, as Python hands them over.
#pragma once

#include <utility>

#include "arrays.h"

namespace fusedrnn::python {

// Parameters with one element per hidden unit: as many rows as the cell has, or only its last rows.
template <class T>
T* unit_rows(const py::object& o, Index most, Index H, Index* rows, bool write, const char* name) {
  if (o.is_none()) return nullptr;
  const auto a = py::cast<py::array>(o);
  require(a.ndim() == 2 && a.shape(0) <= most, name);
  *rows = a.shape(0);
  return matrix<T>(a, *rows, H, nullptr, write, name);
}

// The parameters of a cell, or their gradients, by name; None means that there is no such parameter.
struct Parameters {
  py::object W_ih = py::none(), W_hh = py::none(), b_ih = py::none(), b_hh = py::none();
  py::object W_hr = py::none(), units = py::none();  // units: (rows, H), the cell's parameters per unit (peepholes)
  py::object gain_ih = py::none(), gain_hh = py::none(), gain_c = py::none(), bias_c = py::none();  // layer norm

  static Parameters of(const py::dict& given) {
    static constexpr std::pair<const char*, py::object Parameters::*> kNames[] = {
        {"W_ih", &Parameters::W_ih},       {"W_hh", &Parameters::W_hh},       {"b_ih", &Parameters::b_ih},
        {"b_hh", &Parameters::b_hh},       {"W_hr", &Parameters::W_hr},       {"units", &Parameters::units},
        {"gain_ih", &Parameters::gain_ih}, {"gain_hh", &Parameters::gain_hh}, {"gain_c", &Parameters::gain_c},
        {"bias_c", &Parameters::bias_c}};
    Parameters parameters;
    std::size_t known = 0;
    for (const auto& [name, member] : kNames)
      if (given.contains(name)) parameters.*member = given[name], ++known;
    require(known == given.size(), "parameters: an unknown name");
    return parameters;
  }
};

}  // namespace fusedrnn::python

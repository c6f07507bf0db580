# frozen_string_literal: true

module Files
  # What was measured, for people and for programs.
  module Report
    COLUMNS = %w[group row kind reference value unit ratio cpu_s_per_gb syscalls_per_gb largest_gap_ms rounds].freeze

    module_function

    def table(group)
      puts "#{group.name}:", ""
      header = ["", "#{group.reference} = 1", "slowest..fastest", group.unit, "CPU s/GB"]
      rows = group.rows.map { |row| row.measured? ? cells(group, row) : [row.name, "-", "-", "-", row.missing] }
      extra = extra(group)
      rows.zip(group.rows) { |cells, row| cells.concat(extra.keys.map { |figure| text(figure, row) || "-" }) }
      Support.table(header + extra.values, rows)
    end

    # What was measured in this group besides: names of the figures by their methods.
    def extra(group)
      { calls: "system calls/GB", gap: "largest gap, ms" }.select { |figure, _| group.measured.any?(&figure) }
    end

    def cells(group, row)
      ratios = group.ratios(row)
      spread = ratios&.minmax&.map { |ratio| format("%.2f", ratio) }&.join("..")
      [row.name, ratio(group, row) || "-", spread || "-", value(group, row), format("%.3f", group.cpu(row))]
    end

    def ratio(group, row)
      group.ratio(row)&.then { |ratio| format("%.2f", ratio) }
    end

    def value(group, row)
      group.unit == "GB/s" ? format("%.2f", group.value(row)) : Support.thousands(group.value(row))
    end

    # A figure that not every group has.
    def text(figure, row)
      value = row.public_send(figure) or return
      figure == :gap ? format("%.1f", value * 1e3) : Support.thousands(value)
    end

    def csv(groups, path)
      lines = groups.flat_map { |group| group.measured.map { |row| record(group, row) } }
      Support.csv(path, COLUMNS, lines)
    end

    def record(group, row)
      [group.name, row.name, row.kind, group.reference, group.value(row), group.unit, group.ratio(row), group.cpu(row),
       row.calls, row.gap&.*(1e3), group.rounds]
    end
  end
end

package queen

// HiveShutdowns is how many hives that the queen started ended in order, or not.
func (q *Queen) HiveShutdowns(clean string) float64 {
	families, err := q.metrics.registry.Gather()
	if err != nil {
		return -1
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "rbee_queen_hive_shutdowns_total" && m.GetLabel()[0].GetValue() == clean {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}

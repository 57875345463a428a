//! Reference counts of a cache's cells: how many sequences use each.

/// Counts how many sequences use each cell. The numbers are ours; llama.cpp has its own.
pub struct Cells {
    /// The number of cells in the cache.
    pub limit: usize,
    /// The number of cells in use.
    pub used: usize,
    uses: Vec<u32>,
    free: Vec<usize>,
}

impl Cells {
    /// A cache of `limit` cells, all free.
    pub fn new(limit: usize) -> Self {
        Cells {
            limit,
            used: 0,
            uses: Vec::new(),
            free: Vec::new(),
        }
    }

    /// Allocates a free cell.
    pub fn allocate(&mut self) -> usize {
        self.used += 1;
        match self.free.pop() {
            Some(cell) => {
                self.uses[cell] = 1;
                cell
            }
            None => {
                self.uses.push(1);
                self.uses.len() - 1
            }
        }
    }

    /// Counts one more sequence that uses a cell.
    pub fn share(&mut self, cell: usize) {
        self.uses[cell] += 1;
    }

    /// Counts one sequence fewer; the last one frees the cell.
    pub fn release(&mut self, cell: usize) {
        self.uses[cell] -= 1;
        if self.uses[cell] == 0 {
            self.used -= 1;
            self.free.push(cell);
        }
    }

    /// The number of distinct cells among these.
    pub fn distinct<'a>(&self, cells: impl Iterator<Item = &'a usize>) -> usize {
        let mut seen = vec![false; self.uses.len()];
        cells
            .filter(|cell| !std::mem::replace(&mut seen[**cell], true))
            .count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_cells_count_once() {
        let mut cells = Cells::new(10);
        let held: Vec<usize> = (0..4).map(|_| cells.allocate()).collect();
        held[..2].iter().for_each(|cell| cells.share(*cell));
        assert_eq!(
            (cells.used, cells.distinct(held.iter().chain(&held[..2]))),
            (4, 4)
        );
        held[1..].iter().for_each(|cell| cells.release(*cell));
        assert_eq!(cells.used, 2, "the second cell is still in use");
        cells.release(held[1]);
        assert_eq!(cells.used, 1);
        assert_eq!(
            (cells.allocate(), cells.used),
            (1, 2),
            "cells are used again"
        );
    }
}

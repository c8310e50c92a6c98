//! The seats in front of the interfaces map: see [`Seat`].

use enforcer_common::layout::{Interface, SEATS, Seat};

use super::{KernelError, object::Array};

/// The seats, and who sits where.
pub struct Seats {
    map: Array<Seat>,
    seats: Vec<Seat>,
}

impl Seats {
    /// Over the given map, where an earlier agent's interfaces may sit.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn new(map: Array<Seat>) -> Result<Self, KernelError> {
        let seats = map
            .iter()
            .collect::<Result<_, _>>()
            .map_err(KernelError::map("SEATS"))?;
        Ok(Self { map, seats })
    }

    /// The interfaces that sit, and what their packets see.
    pub fn taken(&self) -> impl Iterator<Item = (u32, Interface)> {
        let taken = self.seats.iter().filter(|seat| seat.index != 0);
        taken.map(|seat| (seat.index, seat.banks[usize::from(seat.select & 1 == 1)]))
    }

    /// Switches an interface to `entry`, if the seat is free or its own. The map behind has it in any case.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn enter(&mut self, index: u32, entry: Interface) -> Result<(), KernelError> {
        let place = index & (SEATS - 1);
        let mut seat = self.seats[place as usize];
        if seat.index != 0 && seat.index != index {
            return Ok(());
        }
        // First what nobody reads, then what makes them read it.
        seat.banks[usize::from(seat.select & 1 == 0)] = entry;
        self.write(place, seat)?;
        seat.select = 1 - (seat.select & 1);
        seat.index = index;
        self.write(place, seat)
    }

    /// Gives up an interface's seat, if it has one.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn leave(&mut self, index: u32) -> Result<(), KernelError> {
        let place = index & (SEATS - 1);
        let seat = self.seats[place as usize];
        if seat.index != index {
            return Ok(());
        }
        self.write(place, Seat { index: 0, ..seat })
    }

    fn write(&mut self, place: u32, seat: Seat) -> Result<(), KernelError> {
        self.map.set(place, seat, 0).map_err(KernelError::map("SEATS"))?;
        self.seats[place as usize] = seat;
        Ok(())
    }
}
